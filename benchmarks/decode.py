"""Compares the processor time of decoding and of presizing in this and in another working copy.

Decoding is timed first, then presizing. The two copies take turns, each in its own process and with
one thread. This benchmark reveals differences that are only a tenth as large as those that
`data.py`, which times entire epochs, can reveal.

    git worktree add ../before REVISION
    python benchmarks/decode.py --path ~/photos --before ../before
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from common import arguments_of, find_files, ratio, spread, tell

PRESIZE = 160
HALVES = ("decode", "presize")


def serve(folder: str, half: str, files: list[str]) -> None:
    """Measures microseconds per picture and prints them, once for each line of standard input."""
    sys.path.insert(0, folder)
    import cv2

    cv2.setNumThreads(1)
    from jaxch5.data import image

    given = [Path(file).read_bytes() for file in files]
    if half == "presize":
        given = [image.decode(content, "picture", PRESIZE) for content in given]
    for _ in sys.stdin:
        begin = time.process_time()
        for one in given:
            if half == "presize":
                image.presize(one, PRESIZE)
            else:
                image.decode(one, "picture", PRESIZE)
        print((time.process_time() - begin) / len(given) * 1e6, flush=True)


def main() -> None:
    parser = arguments_of(__doc__, turns=24, device=False, path=True)
    parser.add_argument("--before", type=Path, required=True, help="another working copy of jaxch5")
    arguments = parser.parse_args()
    files = [str(file) for file in find_files(arguments.path)]
    folders = {"ours": Path(__file__).parents[1], "before": arguments.before.resolve()}
    for half in HALVES:
        sides = {
            name: subprocess.Popen(
                [sys.executable, __file__, "--serve", folder, half, *files],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for name, folder in folders.items()
        }
        took: dict[str, list[float]] = {name: [] for name in sides}
        # The first turn only fills caches, and is not counted.
        for turn in range(arguments.turns + 1):
            for name in (*sides,) if turn % 2 else reversed((*sides,)):
                side = sides[name]
                side.stdin.write("\n")
                side.stdin.flush()
                microseconds = float(side.stdout.readline())
                if turn:
                    took[name].append(microseconds)
        for side in sides.values():
            side.stdin.close()
            side.wait()
        tell(
            {
                "half": half,
                "pictures": len(files),
                **{f"{name}_us": spread(values) for name, values in took.items()},
                "before_over_ours": ratio(took["before"], took["ours"]),
            },
            arguments.json,
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], sys.argv[3], sys.argv[4:])
    else:
        main()
