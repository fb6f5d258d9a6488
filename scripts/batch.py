# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-regioncap[demo]"]
#
# [tool.uv.sources]
# hf-regioncap = { path = "..", editable = true }
# ///
"""Caption by batch files: half the price at OpenAI, and how vLLM works offline.

    python scripts/batch.py export USER/BOXES requests/ --model gpt-4o-mini
    (upload requests/*.jsonl, or: vllm run-batch -i requests/requests-00001.jsonl -o results.jsonl)
    python scripts/batch.py import results.jsonl
    python scripts/caption_dataset.py USER/BOXES captions --model gpt-4o-mini

The last command finds the answers in the store and asks only what is missing; exporting again
instead gives the requests that failed, expired, or came back without some regions.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from hf_regioncap.batch import export_requests, import_results
from hf_regioncap.errors import OptionError, StoreError
from hf_regioncap.flags import add_option_flags, options_from_flags
from hf_regioncap.inputs import load


def read_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Caption by request files for batch endpoints.")
    commands = parser.add_subparsers(dest="command", required=True)
    export = commands.add_parser("export", help="write the requests that are still to be asked")
    export.add_argument("input", metavar="INPUT", help="as for caption_dataset.py")
    export.add_argument("folder", metavar="FOLDER", help="where requests-00001.jsonl … go")
    export.add_argument("--split")
    export.add_argument("--config")
    export.add_argument("--revision")
    export.add_argument("--limit", type=int, metavar="N")
    export.add_argument("--recipe", metavar="FILE")
    add_option_flags(export)
    back = commands.add_parser("import", help="bring results into the answer store")
    back.add_argument("results", nargs="+", metavar="RESULTS", help="the batch's output files")
    back.add_argument("--answer-store", metavar="PATH")
    return parser.parse_args(arguments)


def export(parsed: argparse.Namespace) -> int:
    options: dict[str, Any] = options_from_flags(parsed, recipe=parsed.recipe)
    columns = {name: options[name] for name in ("image_column", "bbox_column") if name in options}
    dataset, root = load(
        parsed.input,
        image_root=options.get("image_root"),
        **columns,
        split=parsed.split,
        config=parsed.config,
        revision=parsed.revision,
        limit=parsed.limit,
        tell=lambda words: print(f"note: {words}", file=sys.stderr),
    )
    if root is not None:
        options.setdefault("image_root", root)
    exported = export_requests(dataset, parsed.folder, **options)
    print(f"{exported.requests:,} requests in {len(exported.files)} files")
    for file in exported.files:
        print(f"  {file}")
    return 0


def bring_back(parsed: argparse.Namespace) -> int:
    options = {"answer_store": parsed.answer_store} if parsed.answer_store else {}
    imported = import_results(parsed.results, **options)
    print(f"{imported.stored:,} answers stored, {imported.known:,} were known")
    for reason, count in sorted(imported.reasons.items()):
        print(f"  {count:>7,} failed: {reason}")
    if imported.failed:
        print("failed requests stay to be asked: export again, or run caption_dataset.py")
    return 1 if imported.failed else 0


def main(arguments: list[str]) -> int:
    parsed = read_arguments(arguments)
    try:
        return export(parsed) if parsed.command == "export" else bring_back(parsed)
    except (OptionError, StoreError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
