"""`python -m hf_regioncap store`: look into answer stores, check, export and merge them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hf_regioncap.errors import OptionError, StoreError
from hf_regioncap.store import AnswerStore, default_store_path


def store_cli(argv: Sequence[str] | None = None) -> int:
    """Show, verify, export or merge answer stores; return the exit status.

    0: fine. 1: damage was found, or answers are lost. 2: wrong usage, or a store that cannot be
    read or written.
    """
    args = _arguments().parse_args(argv)
    try:
        outcome: tuple[list[str], int] = args.command(args)
    except (StoreError, OptionError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - this is the command line
        return 2
    lines, status = outcome
    print("\n".join(lines))  # noqa: T201 - this is the command line
    return status


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hf_regioncap store", description="Look after paid answers on disk."
    )
    commands = parser.add_subparsers(required=True)

    def command(name: str, run: Callable[..., tuple[list[str], int]], text: str) -> Any:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(command=run)
        return added

    place = {"nargs": "?", "type": Path, "default": default_store_path()}
    here = "the store; %(default)s if not given"
    show = command("show", _show, "Count answers, tokens and bytes.")
    show.add_argument("path", **place, help=here)
    verify = command("verify", _verify, "Check the file and every row against its digest.")
    verify.add_argument("path", **place, help=here)
    export = command("export", _export, "Write all answers to a Parquet file.")
    export.add_argument("path", **place, help=here)
    export.add_argument("output", type=Path, help="the Parquet file to write")
    merge = command("merge", _merge, "Add the answers of other stores, damaged ones too.")
    merge.add_argument("path", type=Path, help="the store to add to; made if missing")
    merge.add_argument("source", type=Path, nargs="+", help="a store or an exported Parquet file")
    return parser


def _show(args: argparse.Namespace) -> tuple[list[str], int]:
    found = AnswerStore(args.path).summary()
    lines = [
        f"{found.path} ({found.size_bytes / 1e6:.1f} MB)",
        f"{found.answers:,} answers to {found.questions:,} questions",
        f"{found.prompt_tokens:,} prompt tokens, {found.completion_tokens:,} completion tokens",
    ]
    if found.first is not None and found.last is not None:
        lines.append(f"from {_date(found.first)} to {_date(found.last)}")
    for (model, status), count in found.counts.items():
        lines.append(f"{count:>12,}  {status:<16}  {model}")
    return lines, 0


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _verify(args: argparse.Namespace) -> tuple[list[str], int]:
    store = AnswerStore(args.path)
    check = store.verify()
    lines = [f"{store.path}: {check.whole_rows:,} answers match their digests", *check.problems]
    return lines, 1 if check.problems else 0


def _export(args: argparse.Namespace) -> tuple[list[str], int]:
    count = AnswerStore(args.path).export_parquet(args.output)
    return [f"{count:,} answers written to {args.output}"], 0


def _merge(args: argparse.Namespace) -> tuple[list[str], int]:
    store, lines, status = AnswerStore(args.path), [], 0
    for source in args.source:
        merged = store.merge_counted(source)
        lines.append(f"{source}: {merged.added:,} answers added")
        if merged.lost:
            lines.append(f"{source} is damaged: at least {merged.lost:,} answers are lost")
            status = 1
    return lines, status
