"""Prediction and the report in figures, of a ResNet-18 that was trained for a moment.

start       `python -m jaxch5.predict RUN PICTURE`, from the process's start to its end: with an
            empty cache of compiled programs, and then with what it left.
throughput  Pictures a second of `Predictor.predict_many` from files to probabilities, beside the
            training pipeline's validation of the same pictures, cache off, in turn.
report      report.html of a run of 37 classes with nine top losses of photographs: its size, and
            seconds to make it and to refresh it after an epoch.

    JAXCH5_FLOWERS=~/flowers python benchmarks/predict.py
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from peer import show, spread
from rich.console import Console

from jaxch5.config import Config
from jaxch5.configured import learner_of
from jaxch5.data.block import Data, DataBlock
from jaxch5.data.source import Source, from_folder
from jaxch5.insight.report import write_report
from jaxch5.interpretation import interpretation_of
from jaxch5.learner import Learner
from jaxch5.optim.schedule import fine_tune_momentum, fine_tune_schedule
from jaxch5.reporting import finished_report, report_of_run
from jaxch5.training.loop import Plan
from jaxch5.training.rundir import create_run

# The chapter's pets.
CLASSES, PICTURES, BATCH, EPOCHS, FROZEN = 37, 7349, 64, 6, 3


def seconds(work: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def load(source: Source, config: Config, train: int, valid: int) -> Data:
    """The first pictures of a shuffled source, nothing kept."""
    items = np.random.default_rng(0).permutation(len(source))
    settings = config.data
    block = DataBlock(
        source, lambda _: (items[:train], items[:valid]), settings.presize, settings.size
    )
    return block.load(settings.batch_size, cache="off")


def train(source: Source, config: Config, folder: Path) -> Learner:
    """A run of one epoch of two batches."""
    few = 2 * config.data.batch_size
    learn = learner_of(load(source, config, few, few), config)
    learn.console, learn.run = Console(quiet=True), create_run(config, folder / "run")
    learn.fit_one_cycle(1)
    return learn


def start(run: Path, picture: Path, repeats: int) -> dict[str, Any]:
    """Seconds of the process."""
    command = [sys.executable, "-m", "jaxch5.predict", str(run), str(picture)]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(run.parent / "compiled")}

    def once() -> None:
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)

    return {
        "first_seconds": seconds(once),
        "seconds": spread([seconds(once) for _ in range(repeats)]),
    }


def throughput(learn: Learner, source: Source, config: Config, repeats: int) -> dict[str, Any]:
    """Pictures a second of both sides, and the ratio of each turn; the first turn compiles."""
    learn.data = load(source, config, config.data.batch_size, len(source))
    assert source.file is not None
    files = [source.file(int(item)) for item in learn.data.valid.items]
    predictor = learn.predictor()
    sides = {
        "predict": lambda: list(predictor.predict_many(files)),
        "validate": learn.validate,
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, work in sides.items():
            rate = len(files) / seconds(work)
            if turn:
                rates[name].append(rate)
    ratios = [a / b for a, b in zip(rates["predict"], rates["validate"], strict=True)]
    return {
        "pictures": len(files),
        **{name: spread(values) for name, values in rates.items()},
        "ratio": spread(ratios),
    }


def report(source: Source, folder: Path, repeats: int) -> dict[str, Any]:
    """Of the chapter's run, with the source's pictures in the place of its own."""
    rng = np.random.default_rng(0)
    names = [f"a breed with a name, no {number}" for number in range(CLASSES)]
    labels = np.arange(len(source), dtype=np.int32) % CLASSES
    source = replace(source, classes=tuple(names), labels=labels)
    config = Config.model_validate(
        {"data": {"path": folder, "presize": 460, "size": 224, "batch_size": BATCH}}
    )
    data = load(source, config, BATCH, len(source))
    logits = rng.normal(size=(len(source), CLASSES)) + 5 * np.eye(CLASSES)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    items = data.valid.items
    interp = interpretation_of(source, items, probabilities[items], labels[items])

    steps, epochs, groups = int(0.8 * PICTURES) // BATCH, FROZEN + EPOCHS, ("stem", "body", "head")
    rates = fine_tune_schedule(EPOCHS, steps, 2e-3, FROZEN, len(groups))
    momentum = fine_tune_momentum(EPOCHS, steps, FROZEN)
    assert len(data.train) == 1
    # A step of the chapter's run is an epoch of this data's.
    plan = Plan(
        "fine_tune",
        epochs * steps,
        rates=lambda step: rates[step].tolist(),
        momentum=lambda step: float(momentum[step]),
    )
    run = create_run(config, folder / "report")
    begun = report_of_run(run, data, [plan], groups)
    records = [
        {
            "epoch": epoch,
            "phase": "frozen" if epoch < FROZEN else "unfrozen",
            "train_loss": 2.5 * 0.6**epoch,
            "valid_loss": 1.4 * 0.7**epoch,
            "accuracy": 1 - 0.4 * 0.7**epoch,
            "error_rate": 0.4 * 0.7**epoch,
            "seconds": 64.2,
            "images_per_second": 410.4,
        }
        for epoch in range(epochs)
    ]

    def refresh() -> None:
        write_report(run.report_file, replace(begun, records=records))

    def finish() -> None:
        write_report(run.report_file, finished_report(begun, records, data, interp))

    refreshed = [seconds(refresh) for _ in range(repeats)]
    finished = [seconds(finish) for _ in range(repeats)]
    return {
        "megabytes": run.report_file.stat().st_size / 1e6,
        "finish_seconds": spread(finished),
        "refresh_seconds": spread(refreshed),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=("start", "throughput", "report"), help="without it, all")
    parser.add_argument("--path", default=os.environ.get("JAXCH5_FLOWERS"), help="class folders")
    parser.add_argument("--repeats", type=int, default=7, help="(default: 7)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    if not arguments.path:
        sys.exit("--path or JAXCH5_FLOWERS should name a folder of photographs")
    parts = [arguments.part] if arguments.part else ["start", "throughput", "report"]

    source = from_folder(arguments.path)
    config = Config.model_validate({"data": {"path": arguments.path}, "model": {"weights": "none"}})
    document: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if set(parts) & {"start", "throughput"}:
            learn = train(source, config, folder)
        if "start" in parts:
            assert source.file is not None
            document["start"] = start(folder / "run", source.file(0), arguments.repeats)
        if "throughput" in parts:
            document["throughput"] = throughput(learn, source, config, arguments.repeats)
        if "report" in parts:
            document["report"] = report(source, folder, arguments.repeats)
    if arguments.json:
        print(json.dumps(document))
        return
    for part, figures in document.items():
        for key, value in figures.items():
            print(f"{part} {key}: {show(value, 3) if isinstance(value, dict) else round(value, 2)}")


if __name__ == "__main__":
    main()
