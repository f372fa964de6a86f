"""Measures how long prediction, attribution and the report take.

start       Times `jaxch5 predict RUN PICTURE` with a briefly trained ResNet-18, from the process's
            start to its end: first with an empty cache of compiled programs, and then with the
            cache that the first process has filled.
throughput  Measures the pictures per second of `Predictor.predict_many`, from files to
            probabilities. It takes turns with the training pipeline, which validates the same
            network on the same pictures without a cache.
attribution Measures the milliseconds that `predict` takes for a photograph at a network input of
            224, and those that `jx.attribution` takes for the same photograph. The two take turns
            after a warm-up. The networks have random weights.
report      Measures the report.html of a run with `--classes` classes, which shows the eight
            photographs with the top losses: its size, the seconds to create it and to refresh it
            after an epoch and, if Playwright and Chromium are installed, the milliseconds until a
            browser has opened it.

    JAXCH5_FLOWERS=~/flowers python benchmarks/predict.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np
from common import arguments_of, find_files, in_turn, ratio, seconds_of, spread, tell, use_device
from rich.console import Console

from jaxch5.config.settings import Config
from jaxch5.configured import learner_of
from jaxch5.data.block import Data, DataBlock
from jaxch5.data.source import Source
from jaxch5.data.sources.folder import from_folder
from jaxch5.learner import Learner
from jaxch5.models.spec import IMAGENET
from jaxch5.optim.schedule import fine_tune_momentum, fine_tune_schedule
from jaxch5.results.about import About
from jaxch5.results.interpretation import interpretation_of
from jaxch5.results.predictor import Predictor
from jaxch5.run.attempts import Attempts
from jaxch5.run.directory import create_run
from jaxch5.run.hooks.report import write_reports
from jaxch5.task import SOFTMAX
from jaxch5.training.events import Begin, End, Epoch
from jaxch5.training.plan import Plan

PARTS = ("start", "throughput", "attribution", "report")
# The figures of the pets in fastai's chapter: classes, pictures, batch size, epochs of all layers,
# and epochs of the head alone.
CLASSES, PICTURES, BATCH, EPOCHS, FROZEN = 37, 7349, 64, 6, 3
# Returns the milliseconds from the start of the navigation until the first text is painted, until
# all of the page can be used, and until the page is loaded.
OPENING = """(() => {
  const [page] = performance.getEntriesByType("navigation");
  const [paint] = performance.getEntriesByName("first-contentful-paint");
  return [paint ? paint.startTime : NaN, page.domInteractive, page.loadEventEnd];
})()"""


def shuffled(source: Source) -> np.ndarray:
    """Returns the indices of a source's pictures in a random order that is always the same."""
    return np.random.default_rng(0).permutation(len(source))


def load(source: Source, config: Config, train: int, valid: int) -> Data:
    """Loads a shuffled source without a cache.

    Its first `train` pictures are for training and its last `valid` pictures for validation; some
    may be used for both.
    """
    items = shuffled(source)
    settings = config.data
    # A split must not use a picture for both, so the parts are chosen afterwards.
    split = lambda _: (items[:-1], items[-1:])  # noqa: E731
    data = DataBlock(source, split, settings.presize, settings.size)
    return data.load(settings.batch_size, cache="off").parted(items[:train], items[-valid:])


def train(source: Source, config: Config, folder: Path) -> Learner:
    """Trains a run for one epoch, which has two batches."""
    few = 2 * config.data.batch_size
    learn = learner_of(load(source, config, few, few), config)
    learn.console, learn.run = Console(quiet=True), create_run(config, folder / "run")
    learn.fit_one_cycle(1)
    return learn


def start(run: Path, picture: Path, repeats: int) -> dict[str, Any]:
    """Measures the seconds that the process takes, when it runs first and when it runs again."""
    command = [sys.executable, "-m", "jaxch5.predict", str(run), str(picture)]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(run.parent / "compiled")}

    def once() -> None:
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)

    return {
        "first_seconds": seconds_of(once),
        "seconds": spread([seconds_of(once) for _ in range(repeats)]),
    }


def throughput(learn: Learner, source: Source, config: Config, repeats: int) -> dict[str, Any]:
    """Measures the pictures per second of both sides, and the ratio; the first turn compiles."""
    learn.data = load(source, config, config.data.batch_size, len(source))
    assert source.file is not None
    files = [source.file(int(item)) for item in learn.data.valid.items]
    predictor = learn.predictor()
    sides = {
        "predict": lambda: len(files) / seconds_of(lambda: list(predictor.predict_many(files))),
        "validate": lambda: len(files) / seconds_of(learn.validate),
    }
    rates = in_turn(sides, repeats)
    return {
        "pictures": len(files),
        **{name: spread(values) for name, values in rates.items()},
        "ratio": ratio(rates["predict"], rates["validate"]),
    }


def attribution_of(picture: Path, repeats: int) -> dict[str, Any]:
    """Measures prediction, attribution and their difference, in milliseconds, for each network."""
    import jaxch5 as jx

    found: dict[str, Any] = {}
    for arch in ("resnet18", "resnet50", "vit_small_patch16_224"):
        model = jx.create_model(arch, CLASSES)
        init = jax.jit(partial(model.init, train=False))
        variables = init(jax.random.key(0), np.zeros((1, 224, 224, 3), np.float32))
        about = About(arch, "linear", "fp32", presize=256, size=224)
        names = tuple(map(str, range(CLASSES)))
        predictor = Predictor(model, variables, names, IMAGENET, about)
        sides = {
            "predict": lambda of=predictor: 1e3 * seconds_of(lambda: of.predict(picture)),
            "attribution": lambda of=predictor: (
                1e3 * seconds_of(lambda: jx.attribution(of, picture))
            ),
        }
        for work in sides.values():
            work()
        times = in_turn(sides, repeats)
        beyond = np.subtract(times["attribution"], times["predict"]).tolist()
        found[arch] = {name: spread(values) for name, values in times.items()}
        found[arch]["beyond"] = spread(beyond)
    return found


def opening(page: Path, repeats: int) -> dict[str, Any]:
    """Measures the milliseconds that a browser takes to open a page; empty without a browser."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None or find_spec("playwright") is None:
        return {}
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        times = []
        for _ in range(repeats):
            tab = browser.new_page(viewport={"width": 1280, "height": 800})
            tab.goto(page.as_uri())
            times.append(tab.evaluate(OPENING))
            tab.close()
        browser.close()
    names = ("first_text_milliseconds", "interactive_milliseconds", "loaded_milliseconds")
    return {name: spread(values) for name, *values in zip(names, *times, strict=True)}


def report(source: Source, folder: Path, repeats: int, classes: int) -> dict[str, Any]:
    """Measures the report of a run like the chapter's, but with pictures of the given source."""
    rng = np.random.default_rng(0)
    names = [f"a breed with a name, no {number}" for number in range(classes)]
    labels = np.arange(len(source), dtype=np.int32) % classes
    # This way, the single training batch has a picture of each class.
    labels[shuffled(source)] = labels.copy()
    source = replace(source, classes=tuple(names), labels=labels)
    config = Config.model_validate(
        {"data": {"path": folder, "presize": 460, "size": 224, "batch_size": max(BATCH, classes)}}
    )
    batch = config.data.batch_size
    data = load(source, config, batch, len(source) - batch)
    logits = rng.normal(size=(len(source), classes)) + 5 * np.eye(classes)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    items = data.valid.items
    interp = interpretation_of(source, items, probabilities[items], labels[items])

    steps, epochs, groups = int(0.8 * PICTURES) // BATCH, FROZEN + EPOCHS, ("stem", "body", "head")
    rates = fine_tune_schedule(EPOCHS, steps, 2e-3, FROZEN, len(groups))
    momentum = fine_tune_momentum(EPOCHS, steps, FROZEN)
    assert len(data.train) == 1
    # Since an epoch of this data has one step, each step of the chapter's run counts as an epoch.
    plan = Plan(
        "fine_tune",
        epochs * steps,
        rates=lambda step: rates[step].tolist(),
        momentum=lambda step: float(momentum[step]),
    )
    run = create_run(config, folder / "report")
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

    hook = write_reports(run, data, records, Attempts(print), SOFTMAX)
    hook(Begin(0, len(data.train), (plan,), groups, data.classes, data.describe(), run.path))
    state: Any = None

    def refresh() -> None:
        hook(Epoch(0, state, [], records[-1]))

    def finish() -> None:
        hook(End(0, state, "finished", interpretation=interp))

    refreshed = [seconds_of(refresh) for _ in range(repeats)]
    finished = [seconds_of(finish) for _ in range(repeats)]
    return {
        "megabytes": run.report_file.stat().st_size / 1e6,
        "finish_seconds": spread(finished),
        "refresh_seconds": spread(refreshed),
        **opening(run.report_file, repeats),
    }


def main() -> None:
    parser = arguments_of(__doc__, turns=7, path=True)
    parser.add_argument("--part", choices=PARTS, help="part to measure (default: all)")
    parser.add_argument(
        "--classes", type=int, default=CLASSES, help=f"classes of the report (default: {CLASSES})"
    )
    arguments = parser.parse_args()
    use_device(arguments.device)
    find_files(arguments.path)
    parts = [arguments.part] if arguments.part else PARTS

    source = from_folder(arguments.path)
    config = Config.model_validate({"data": {"path": arguments.path}, "model": {"weights": "none"}})
    document: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if set(parts) & {"start", "throughput"}:
            learn = train(source, config, folder)
        if "start" in parts:
            assert source.file is not None
            document["start"] = start(folder / "run", source.file(0), arguments.turns)
        if "throughput" in parts:
            document["throughput"] = throughput(learn, source, config, arguments.turns)
        if "attribution" in parts:
            assert source.file is not None
            document["attribution"] = attribution_of(source.file(0), arguments.turns)
        if "report" in parts:
            document["report"] = report(source, folder, arguments.turns, arguments.classes)
    tell(document, arguments.json)


if __name__ == "__main__":
    main()
