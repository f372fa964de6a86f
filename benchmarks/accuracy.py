"""Compares our accuracy with fastai's, given the same pictures, network, weights and schedule.

A cell is one combination of a set of pictures, a starting point, a seed and a side (jaxch5 or
fastai). Each cell is trained in a process of its own, and its result is stored as a file in the
folder that `--out` names, so the benchmark can be stopped and resumed at any time. A set is either
the digits, which are written as files so that both sides can read them, or a folder with `train/`
and `valid/`; `--sets` gives the number of epochs after each set's name, and a set may appear
several times, with different numbers. For all starting points except `scratch`, a network is
first trained on the set that `--body-from` names, and its weights are the starting point; if the
folder `--out` has its run already, as `body-SET-ARCH`, that one is used. fastai loads these weights
from the file that `jaxch5 export` writes.
On the digits, and on the set that `--body-from` names, networks are only trained from scratch.

    JAXCH5_PEER_PYTHON=~/peer/bin/python python benchmarks/accuracy.py --out cells \
        --body-from caltech --sets digits:5 flowers:5 flowers:10 caltech:5
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import arguments_of, same, tell
from ours_learner import facts, learner_of, request_of
from peer import peer_python

HERE = Path(__file__).parent
SIDES = ("ours", "fastai")
# What has to be the same on both sides.
WORK = ("parameters", "train", "valid", "steps", "shape", "classes")


class Beginning(NamedTuple):
    """Defines how a cell is trained.

    Attributes:
        train: Kind of training. `one_cycle` trains all layers at the same learning rate, `frozen`
            trains only the head, and `fine_tune` trains the head for one epoch and then every
            group of layers at its own rate.
        lr: Highest learning rate of the cycle, or the `base_lr` of `fine_tune`.
        body: Whether training begins from weights that were learned on another set.
        method: How the pictures are made square, as in the setting `data.method`.
        precision: Type of the numbers that the network computes in, as in `model.precision`.
    """

    train: str
    lr: float
    body: bool = True
    method: str = "crop"
    precision: str = "fp32"


BEGINNINGS = {
    "scratch": Beginning("one_cycle", 3e-3, body=False),
    "fine_tune": Beginning("fine_tune", 2e-2),
    "frozen": Beginning("frozen", 2e-2),
    "one_rate": Beginning("one_cycle", 2e-3),
    "squish": Beginning("fine_tune", 2e-2, method="squish"),
    "bf16": Beginning("fine_tune", 2e-2, precision="bf16"),
}


def settings_of(cell: dict[str, Any]) -> dict[str, Any]:
    """Returns jaxch5's settings for a cell."""
    data = ("path", "presize", "size", "batch_size", "method")
    return {
        "seed": cell["seed"],
        "data": {name: cell[name] for name in data},
        "augment": {"do_flip": cell["flip"]},
        "model": {
            "arch": cell["arch"],
            "weights": cell["weights"] or "none",
            "precision": cell["precision"],
        },
        "fit": {"label_smoothing": cell.get("smoothing", 0.0)},
    }


def train_ours(cell: dict[str, Any]) -> dict[str, Any]:
    """Trains a cell on our side, in this process."""
    from jaxch5.training.process import prepare_process

    prepare_process()
    learn = learner_of(settings_of(cell))
    began = time.perf_counter()
    if cell["train"] == "fine_tune":
        # Together with the epoch of the head, these are as many epochs as in the other beginnings.
        learn.fine_tune(cell["epochs"] - 1, cell["lr"])
    else:
        learn.freeze_to(-1 if cell["train"] == "frozen" else 0)
        learn.fit_one_cycle(cell["epochs"], cell["lr"])
    seconds = time.perf_counter() - began
    return {"accuracy": learn.records[-1]["accuracy"], "seconds": seconds, **facts(learn)}


def request_for(cell: dict[str, Any], body: Path | None) -> dict[str, Any]:
    """Returns what fastai needs to train the same cell (see fastai_learner.py)."""
    sizes = argparse.Namespace(**cell, batch=cell["batch_size"])
    # This learner only provides the pictures and their labels.
    learn = learner_of(settings_of({**cell, "weights": None}))
    own = ("seed", "train", "epochs", "lr", "method", "flip")
    of_cell = {f"cell_{name}": cell[name] for name in own}
    weights = str(body) if cell["weights"] else None
    return {**request_of(learn, sizes, "cpu"), **of_cell, "cell_weights": weights}


def sets_of(words: Sequence[str], digits: Path) -> list[tuple[Path, int]]:
    """Returns the folder and the number of epochs of each set, in the order of `--sets`.

    Raises:
        SystemExit: Two folders have the same name, by which a cell's file tells them apart.

    Example:
        >>> sets_of(["digits:5", "digits:10"], Path("cells/digits"))
        [(PosixPath('cells/digits'), 5), (PosixPath('cells/digits'), 10)]
    """
    sets = []
    for word in words:
        path, _, epochs = word.rpartition(":")
        sets.append((digits if path == "digits" else Path(path).resolve(), int(epochs)))
    folders = {folder for folder, _ in sets}
    if len({folder.name for folder in folders}) < len(folders):
        sys.exit(f"--sets {' '.join(words)}: two folders have the same name; rename one of them")
    return sets


def cells_of(arguments: argparse.Namespace, out: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yields each cell's file and the cell, seed by seed.

    If the benchmark is interrupted, its table therefore lacks some seeds, but no rows.
    """
    for seed in range(arguments.seeds):
        for folder, epochs in sets_of(arguments.sets, out / "digits"):
            # The digits are tiny, and a mirrored digit is no longer a digit.
            are_digits = folder == out / "digits"
            of_body = arguments.body_from
            from_body = of_body and not are_digits and folder != of_body.resolve()
            for beginning in arguments.beginnings:
                how = BEGINNINGS[beginning]
                if how.body and not from_body:
                    continue
                cell = {
                    **how._asdict(),
                    "path": str(folder),
                    "seed": seed,
                    "arch": arguments.arch,
                    "epochs": epochs,
                    "batch_size": arguments.batch,
                    "presize": 40 if are_digits else arguments.presize,
                    "size": 32 if are_digits else arguments.size,
                    "flip": not are_digits,
                    "workers": arguments.workers,
                    "weights": str(body_of(arguments, out)) if how.body else None,
                }
                named = f"{beginning} from {of_body.resolve().name}" if how.body else beginning
                for side in SIDES:
                    trained = folder.name, arguments.arch, named, f"{epochs} epochs"
                    yield out / f"{', '.join([*trained, str(seed), side])}.json", cell


def write_digits(folder: Path) -> None:
    """Writes scikit-learn's digits as PNG files to `train/` and `valid/`, by the default split."""
    from PIL import Image

    from jaxch5.data.source import digits
    from jaxch5.data.split import random_split

    source = digits()
    for part, items in zip(("train", "valid"), random_split()(source), strict=True):
        for item in items:
            file = folder / part / source.classes[source.labels[item]] / f"{item}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.asarray(source.read(int(item)))).save(file)


def body_of(arguments: argparse.Namespace, out: Path) -> Path:
    """Returns the run from which cells begin."""
    return out / f"body-{arguments.body_from.resolve().name}-{arguments.arch}"


def train_body(folder: Path, arch: str, out: Path) -> None:
    """Trains the run from which cells begin, resumes it, or does nothing if it is complete."""
    settings = "--model.weights none --data.presize 96 --data.size 64 --data.batch-size 32"
    fit = f"--model.arch {arch} --fit.epochs 30 --fit.lr 1e-3"
    how = [str(folder), *settings.split(), *fit.split(), "--workdir", str(out)]
    if (out / "checkpoints").exists():
        how = ["--resume", str(out)]
    subprocess.run([sys.executable, "-m", "jaxch5.train", *how], stdout=sys.stderr, check=True)


def table(out: Path) -> dict[str, Any]:
    """Returns a row for each set and starting point that has cells, and the differences' mean."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for file in sorted(out.glob("*.json")):
        *parts, seed, side = file.stem.split(", ")
        cell = json.loads(file.read_text(encoding="utf-8"))
        found.setdefault(", ".join(parts), {}).setdefault(seed, {})[side] = cell
    rows = {
        name: row(list(seeds.values()), epochs=int(name.rpartition(", ")[2].split()[0]))
        for name, seeds in found.items()
    }
    means = [told["ours minus fastai"][0] for told in rows.values() if told["seeds"]]
    return {**rows, "mean of all differences": statistics.mean(means or [float("nan")])}


def row(seeds: Sequence[dict[str, Any]], epochs: int) -> dict[str, Any]:
    """Returns both sides' accuracies in percent, and their mean difference with its 95 % interval.

    The interval is that of Student's t-distribution. The pictures a second count only the pictures
    that are trained on, but the time is that of all epochs including their validation.

    Example:
        >>> work = dict.fromkeys(WORK, 1)
        >>> side = lambda accuracy: {"accuracy": accuracy, "seconds": 2.0, **work}
        >>> seeds = [{"ours": side(0.8), "fastai": side(0.7)}]
        >>> seeds += [{"ours": side(0.7), "fastai": side(0.7)}]
        >>> told = row(seeds, epochs=3)
        >>> [round(value, 1) for value in told["ours minus fastai"]]
        [5.0, -58.5, 68.5]
        >>> told["ours pictures a second"]
        1.5
    """
    from scipy.stats import t

    both = [seed for seed in seeds if len(seed) == len(SIDES)]
    told: dict[str, Any] = {"seeds": len(both)}
    for seed in both:
        same("the work", *({name: seed[side][name] for name in WORK} for side in SIDES))
    if not both:
        return told
    for side in SIDES:
        accuracies = [100 * seed[side]["accuracy"] for seed in both]
        told[side] = [statistics.mean(accuracies), min(accuracies), max(accuracies)]
        seconds = statistics.median(seed[side]["seconds"] for seed in both)
        told[f"{side} seconds"] = seconds
        told[f"{side} pictures a second"] = epochs * both[0][side]["train"] / seconds
    differences = [100 * (seed["ours"]["accuracy"] - seed["fastai"]["accuracy"]) for seed in both]
    mean, half = statistics.mean(differences), float("nan")
    if len(both) > 1:
        error = statistics.stdev(differences) / len(both) ** 0.5
        half = float(t.ppf(0.975, len(both) - 1)) * error
    return {**told, "ours minus fastai": [mean, mean - half, mean + half]}


def main() -> None:
    parser = arguments_of(__doc__, turns=None, device=False)
    parser.add_argument("--out", type=Path, help="folder in which cells are stored")
    parser.add_argument(
        "--body-from", type=Path, help="set whose weights training starts from, where it does"
    )
    parser.add_argument(
        "--sets", nargs="+", default=["digits:5"], help="such as digits:5 FOLDER:10"
    )
    parser.add_argument("--beginnings", nargs="+", choices=BEGINNINGS, default=list(BEGINNINGS))
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds (default: 5)")
    parser.add_argument("--arch", default="resnet18", help="network (default: resnet18)")
    parser.add_argument("--batch", type=int, default=32, help="pictures per step (default: 32)")
    parser.add_argument(
        "--presize", type=int, default=96, help="short side of presized photographs (default: 96)"
    )
    parser.add_argument(
        "--size", type=int, default=64, help="network input for photographs, pixels (default: 64)"
    )
    parser.add_argument(
        "--workers", type=int, default=2, help="worker processes of fastai (default: 2)"
    )
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cell:
        print(json.dumps(train_ours(json.loads(arguments.cell))))
        return
    if arguments.out is None:
        sys.exit("--out should name a folder for the cells")
    out, python = arguments.out.resolve(), peer_python(required=True)
    assert python is not None
    if not (out / "digits").exists():
        write_digits(out / "digits")
    body = None
    if arguments.body_from:
        run = body_of(arguments, out)
        body = run.parent / f"{run.name}.safetensors"
        if not body.exists():
            train_body(arguments.body_from, arguments.arch, run)
            export = [sys.executable, "-m", "jaxch5.export", str(run), "--out", str(body)]
            subprocess.run(export, stdout=sys.stderr, check=True)
    for file, cell in cells_of(arguments, out):
        if file.exists():
            continue
        command = [sys.executable, __file__, "--cell", json.dumps(cell)]
        if file.stem.endswith(SIDES[1]):
            script, request = str(HERE / "fastai_learner.py"), json.dumps(request_for(cell, body))
            # The names of thousands of files are too long for a command line.
            (out / "request").write_text(request, encoding="utf-8")
            command = [python, script, "--cell", str(out / "request")]
        ended = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        line = ended.stdout.splitlines()[-1]
        print(file.stem, line, file=sys.stderr, flush=True)
        scratch = file.with_suffix(".part")
        scratch.write_text(line, encoding="utf-8")
        scratch.replace(file)
    tell({"unit": "percent: mean, lowest, highest", **table(out)}, arguments.json)


if __name__ == "__main__":
    main()
