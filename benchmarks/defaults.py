"""Searches for the best defaults for photographs: rate, epochs, batch size and label smoothing.

The pictures come from a folder with `train/` and `valid/`. For each number in `--counts`, that many
training pictures are drawn at random, the same number from each class; each seed draws different
ones. A ResNet-18 is trained on them and scored on all validation pictures. It is trained from
scratch in one cycle or, with `--body`, by `fine_tune` from weights that were learned on another
set. A cell is one combination of settings and a seed. The result of each cell is stored as a file
in the folder that `--out` names, and cells that have such a file are not trained again.

    python benchmarks/defaults.py --path flowers --out cells --counts 200 500 \
        --epochs 5 10 20 40 --lrs 1e-3 3e-3
"""

from __future__ import annotations

import csv
import itertools
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from accuracy import BEGINNINGS, HERE
from common import arguments_of, find_files, mean_text, tell


def write_table(folder: Path, file: Path, count: int, seed: int) -> None:
    """Writes a table of all validation pictures and some training pictures, balanced by class."""
    parts = {part: find_files(folder / part) for part in ("train", "valid")}
    shuffled = np.random.default_rng(seed).permutation(parts["train"])
    # Each round takes one picture of each class, until there are enough.
    rounds: dict[str, int] = {}
    places = []
    for path in shuffled:
        name = Path(path).parent.name
        rounds[name] = rounds.get(name, 0) + 1
        places.append(rounds[name])
    parts["train"] = [str(path) for path in shuffled[np.argsort(places, kind="stable")][:count]]
    with file.open("w", newline="", encoding="utf-8") as opened:
        rows = csv.writer(opened)
        rows.writerow(["image", "label", "is_valid"])
        for part, files in parts.items():
            rows.writerows([path, Path(path).parent.name, part == "valid"] for path in files)


def main() -> None:
    parser = arguments_of(__doc__, turns=None, device=False, path=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for the cells")
    parser.add_argument("--body", type=Path, help="run with whose weights training begins")
    parser.add_argument(
        "--counts", type=int, nargs="+", default=[200, 500], help="numbers of training pictures"
    )
    parser.add_argument("--epochs", type=int, nargs="+", default=[5, 10, 20, 40])
    parser.add_argument("--lrs", type=float, nargs="+", default=[1e-3, 3e-3])
    parser.add_argument("--batches", type=int, nargs="+", default=[32])
    parser.add_argument("--smoothings", type=float, nargs="+", default=[0.0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[64], help="pixels (default: 64)")
    parser.add_argument("--seeds", type=int, default=3, help="runs per setting (default: 3)")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    how = BEGINNINGS["fine_tune" if arguments.body else "scratch"]
    found: dict[str, list[float]] = {}
    seconds: dict[str, list[float]] = {}
    varied = ("counts", "sizes", "batches", "smoothings", "lrs", "epochs")
    cells = itertools.product(
        range(arguments.seeds), *(getattr(arguments, name) for name in varied)
    )
    for seed, count, size, batch, smoothing, lr, epochs in cells:
        name = f"{count} of {arguments.path.name}, {how.train}, size {size}, batch {batch}, "
        name += f"smoothing {smoothing:g}, lr {lr:g}, {epochs} epochs"
        file = out / f"{name}, {seed}.json"
        table = out / f"{arguments.path.name}_{count}_{seed}.csv"
        if not table.exists():
            write_table(arguments.path.resolve(), table, count, seed)
        if not file.exists():
            cell: dict[str, Any] = {
                **how._asdict(),
                "path": str(table),
                "seed": seed,
                "arch": "resnet18",
                "epochs": epochs,
                "lr": lr,
                "batch_size": batch,
                "smoothing": smoothing,
                "presize": size * 3 // 2,
                "size": size,
                "flip": True,
                "weights": str(arguments.body.resolve()) if arguments.body else None,
            }
            command = [sys.executable, str(HERE / "accuracy.py"), "--cell", json.dumps(cell)]
            ended = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
            file.write_text(ended.stdout.splitlines()[-1], encoding="utf-8")
        cell = json.loads(file.read_text(encoding="utf-8"))
        found.setdefault(name, []).append(100 * cell["accuracy"])
        seconds.setdefault(name, []).append(cell["seconds"])
        print(file.stem, f"{100 * cell['accuracy']:.1f}", file=sys.stderr, flush=True)
    rows = {
        name: f"{mean_text(values)}, {statistics.median(seconds[name]):.0f} s"
        for name, values in found.items()
    }
    tell({"unit": "percent: mean, lowest, highest; seconds", **rows}, arguments.json)


if __name__ == "__main__":
    main()
