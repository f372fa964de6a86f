"""What `python -m jaxch5` says: which commands there are."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path


def commands() -> dict[str, str]:
    """Returns how each command is called and what it does, from the first line of its module.

    Example:
        >>> commands()["python -m jaxch5.train"]
        'trains a classifier of pictures and says how good it is'
    """
    found = {}
    for file in sorted(Path(__file__).parent.glob("*.py")):
        # Read, not imported, which would take seconds.
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        if said := re.match(r"`(python -m jaxch5\.[^`]+)`: (.*?)\.?(?:\n|$)", text):
            found[said[1]] = said[2]
    return found


def main() -> int:
    """Prints the commands."""
    lines = [f"{command}\n    {purpose}" for command, purpose in commands().items()]
    try:
        print(*lines, "\nEach takes --help.", sep="\n", flush=True)
    except OSError as error:
        from jaxch5.cli import lost_output

        return lost_output(error, "python -m jaxch5")
    return 0 if sys.argv[1:] in ([], ["--help"], ["-h"]) else 2


if __name__ == "__main__":
    sys.exit(main())
