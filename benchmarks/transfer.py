"""Measures what transfer learning and half precision gain and cost, without any download.

transfer    Takes a ResNet-18 that has learned the digits 0 to 4, fine-tunes it on the digits 5 to 9
            with ten pictures per class, and compares it with the same network when that is trained
            from scratch for as many steps, at several learning rates. Both are validated on 60
            other pictures per class.
precision   Compares the default run in bf16 and in fp16 with the default run in fp32.
frozen      Compares a ResNet-50's training step when its body is frozen, so that its batch norms
            use their running statistics, with the step that trains all of it. The two take turns.

    python benchmarks/transfer.py --part transfer --seeds 5
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import jax
import numpy as np
from common import arguments_of, in_turn, ratio, seconds_of, spread, tell, use_device
from rich.console import Console

from jaxch5.config.building import load_data, policy_of
from jaxch5.config.settings import Config
from jaxch5.configured import learner_of, train_as_configured
from jaxch5.data.block import Data, DataBlock
from jaxch5.data.source import Source, digits, from_arrays
from jaxch5.data.split import random_split
from jaxch5.learner import vision_learner

QUIET = Console(quiet=True)
TRAINED_ON, VALIDATED_ON = 10, 60


def some_digits(first: int, last: int) -> Source:
    """Returns the digits from `first` to `last`."""
    source = digits()
    kept = np.flatnonzero((source.labels >= first) & (source.labels <= last))
    images = np.stack([source.read(item) for item in kept])
    return from_arrays(images, source.labels[kept] - first, source.classes[first : last + 1])


def few_of_each(seed: int) -> Any:
    """Returns a split with ten pictures per class for training and sixty others for validation."""

    def split(source: Source) -> tuple[np.ndarray, np.ndarray]:
        shuffled = np.random.default_rng(seed).permutation(len(source))
        of_class = [shuffled[source.labels[shuffled] == k] for k in range(len(source.classes))]
        train = np.concatenate([items[:TRAINED_ON] for items in of_class])
        rest = [items[TRAINED_ON : TRAINED_ON + VALIDATED_ON] for items in of_class]
        return train, np.concatenate(rest)

    return split


def load(source: Source, split: Any, batch_size: int) -> Data:
    policy = policy_of(Config().augment)
    return DataBlock(source, split, presize=40, size=32, augment=policy).load(batch_size)


def transfer(seeds: int, epochs: int, scratch_lrs: list[float]) -> dict[str, Any]:
    first = vision_learner(load(some_digits(0, 4), random_split(), 64), "resnet18", "none")
    others = some_digits(5, 9)
    fresh = vision_learner(load(others, few_of_each(0), 10), "resnet18", "none")
    tuned: list[float] = []
    scratch: dict[float, list[float]] = {lr: [] for lr in scratch_lrs}
    for seed in range(seeds):
        data = load(others, few_of_each(seed), 10)
        # Pretraining is repeated too, because its seed matters more than that of fine-tuning.
        learn = first.again(seed)
        learn.console = QUIET
        learn.fit_one_cycle(4, 3e-3)
        with tempfile.TemporaryDirectory() as folder:
            weights = Path(folder) / "digits.safetensors"
            learn.export(weights)
            learn = vision_learner(data, "resnet18", weights, seed=seed)
        learn.console = QUIET
        learn.fine_tune(epochs - 1, base_lr=1e-2)
        tuned.append(learn.records[-1]["accuracy"])
        for lr, accuracies in scratch.items():
            learn = fresh.again(seed)
            learn.console, learn.data = QUIET, data
            learn.fit_one_cycle(epochs, lr)
            accuracies.append(learn.records[-1]["accuracy"])
    document: dict[str, Any] = {"tuned": tuned}
    for lr, accuracies in scratch.items():
        document[f"scratch at {lr}"] = accuracies
        gain = statistics.mean(tuned) - statistics.mean(accuracies)
        document[f"gain over scratch at {lr}"] = gain
    return document


def precision(seeds: int) -> dict[str, Any]:
    accuracies: dict[str, list[float]] = {}
    for name in ("fp32", "bf16", "fp16"):
        config = Config.model_validate({"model": {"precision": name}})
        first = learner_of(load_data(config), config)
        accuracies[name] = []
        for seed in range(seeds):
            learn = first.again(seed)
            learn.console = QUIET
            train_as_configured(learn, config.fit)
            accuracies[name].append(learn.records[-1]["accuracy"])
    return accuracies


def frozen(size: int, batch_size: int, turns: int) -> dict[str, Any]:
    """Measures the pictures per second of the step with a frozen body, and of the one without."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2 * batch_size, size, size, 3), dtype=np.uint8)
    source = from_arrays(images, np.arange(len(images)) % 2, ["a", "b"])
    split = lambda _: np.split(np.arange(batch_size + 4), [batch_size])  # noqa: E731
    block = DataBlock(source, split, size, size, None)
    learn = vision_learner(block.load(batch_size), "resnet50", "none", train_bn=False)
    batch = jax.device_put(next(learn.data.train.steps(0)))
    key, states = jax.random.key(0), {}

    def side_of(group: int) -> Callable[[], float]:
        learn.freeze_to(group)
        step, states[group] = learn._steps.train, jax.tree.map(np.asarray, learn.state)
        states[group] = jax.device_put(states[group])

        def steps() -> None:
            for _ in range(3):
                states[group], metrics = step(states[group], batch, key)
            jax.block_until_ready(metrics)

        return lambda: 3 * batch_size / seconds_of(steps)

    speeds = in_turn({"frozen": side_of(-1), "unfrozen": side_of(0)}, turns)
    return {
        "unit": "pictures a second",
        **{name: spread(values) for name, values in speeds.items()},
        "ratio": ratio(speeds["frozen"], speeds["unfrozen"]),
    }


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("--part", choices=("transfer", "precision", "frozen"), required=True)
    parser.add_argument(
        "--seeds",
        type=int,
        default=5,
        help="runs of each kind, unless --part is frozen (default: 5)",
    )
    parser.add_argument(
        "--scratch-lrs",
        type=float,
        nargs="+",
        default=[1e-3, 2e-3, 5e-3],
        help="learning rates from scratch, with --part transfer",
    )
    parser.add_argument(
        "--epochs", type=int, default=2, help="epochs of five steps each, with --part transfer"
    )
    parser.add_argument(
        "--size", type=int, default=128, help="side of the pictures with --part frozen"
    )
    parser.add_argument(
        "--batch", type=int, default=16, help="pictures per step, with --part frozen"
    )
    arguments = parser.parse_args()
    use_device(arguments.device)
    if arguments.part == "frozen":
        document = frozen(arguments.size, arguments.batch, arguments.turns)
    elif arguments.part == "precision":
        document = precision(arguments.seeds)
    else:
        # A learner prints which weights it begins with; standard output is kept for the document.
        with redirect_stdout(sys.stderr):
            document = transfer(arguments.seeds, arguments.epochs, arguments.scratch_lrs)
    tell(document, arguments.json)


if __name__ == "__main__":
    main()
