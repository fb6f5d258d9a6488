"""`python -m hf_regioncap doctor | store`: look after endpoints and answer stores."""

from __future__ import annotations

import sys


def main(arguments: list[str]) -> int:
    """Hand the arguments to the command that the first of them names."""
    command, *rest = arguments or ["--help"]
    if command == "doctor":
        from hf_regioncap.doctor import doctor_cli

        return doctor_cli(rest)
    if command == "store":
        from hf_regioncap.store_cli import store_cli

        return store_cli(rest)
    print(  # noqa: T201
        "usage: python -m hf_regioncap doctor [options]\n"
        "       python -m hf_regioncap store {show,verify,export,merge} …\n\n"
        "doctor checks endpoint, model, schema, price, store and Hub; each takes --help"
    )
    return 0 if command in ("-h", "--help") else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
