"""The command `jaxch5`: starts the command that its first argument names, or lists all commands."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path

# Commands in the order of a typical workflow; any that are not listed here come last.
WORKFLOW = (
    *("verify", "show", "lr_find", "train", "runs", "evaluate", "suspects", "clean", "predict"),
    *("demo", "export", "pack", "transfer_profile", "completion"),
)
PROG = "jaxch5"


def commands() -> dict[str, str]:
    """Returns each command's name, and its purpose, which the first line of its module states.

    Example:
        >>> commands()["train"]
        'trains an image classifier and reports how good it is'
    """
    found = {}
    for file in sorted(Path(__file__).parent.glob("*.py")):
        # Each file is read, not imported: importing all modules would take seconds.
        with file.open(encoding="utf-8") as text:
            if said := re.match(rf'"""`{PROG} {file.stem}\b.*?`: (.*?)\.?"""$', text.readline()):
                found[file.stem] = said[1]
    order = [name for name in WORKFLOW if name in found]
    return {name: found[name] for name in [*order, *(found.keys() - order)]}


def main() -> int:
    """Starts the command that the command line names, or lists all commands if it names none."""
    word = sys.argv[1] if sys.argv[1:] else "--help"
    known, name = commands(), word.replace("-", "_")
    if name in known:
        # The command finds its arguments as if its module had been started directly.
        del sys.argv[1]
        # Settings may name modules in the current folder, which only `python -m` adds to the path.
        sys.path.append("")
        status: int = import_module(f"jaxch5.{name}").main()
        return status
    if word not in ("--help", "-h"):
        from difflib import get_close_matches

        from jaxch5.util.text import printable

        close = get_close_matches(name, known, n=1)
        meant = f"did you mean {PROG} {close[0]}?" if close else f"{PROG} lists all commands"
        print(f"{PROG}: {printable(word)}: no such command; {meant}", file=sys.stderr)
        return 2
    width = max(map(len, known))
    lines = [f"  {name:<{width}}  {purpose}" for name, purpose in known.items()]
    usage = f"usage: {PROG} COMMAND ..."
    try:
        print(usage, "", *lines, "", "Each command accepts --help.", sep="\n", flush=True)
    except OSError as error:
        from jaxch5.cli import lost_output

        return lost_output(error, PROG)
    return 0


if __name__ == "__main__":
    sys.exit(main())
