"""Command line: ``python -m varpro_nn train|predict|export ...``."""

import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = ("train", "predict", "export")


def main(argv: Sequence[str] | None = None) -> int:
    """Hand the arguments to the module of the command; return its exit status."""
    command, *rest = (sys.argv[1:] if argv is None else argv) or [""]
    if command in COMMANDS:
        # Not at the top: export and predict need none of what training imports.
        return int(import_module(f"varpro_nn.{command}").main(rest))
    usage = f"usage: python -m varpro_nn {{{','.join(COMMANDS)}}} ...; each has --help"
    asked = command in ("-h", "--help")
    print(usage, file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


if __name__ == "__main__":
    raise SystemExit(main())
