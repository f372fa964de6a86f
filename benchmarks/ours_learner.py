"""Runs our side of epoch.py and start.py: jaxch5 trains on photographs from scratch.

With `--first-step DEVICE SETTINGS` it prints one line after the first training step and exits; with
`--fine-tune DEVICE SETTINGS EPOCHS` it does so after it has fine-tuned and written the report.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from argparse import ArgumentParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import use_device

if TYPE_CHECKING:
    from jaxch5.learner import Learner


def learner_of(settings: dict[str, Any]) -> Learner:
    """Creates the learner that `jaxch5 train` would create from the same settings."""
    from rich.console import Console

    from jaxch5 import configured
    from jaxch5.config.building import load_data
    from jaxch5.config.settings import Config

    config = Config.model_validate(settings)
    learn = configured.learner_of(load_data(config), config)
    learn.console = Console(quiet=True)
    return learn


def add_sizes(parser: ArgumentParser) -> None:
    """Adds the arguments that both benchmarks have."""
    parser.add_argument("--arch", default="resnet18", help="network (default: resnet18)")
    parser.add_argument("--presize", type=int, default=192, help="length of short sides, pixels")
    parser.add_argument("--size", type=int, default=128, help="size of the network's input, pixels")
    parser.add_argument("--batch", type=int, default=32, help="pictures per step")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="fastai's workers")


def settings_of(arguments: Any, cache: str) -> dict[str, Any]:
    """Returns jaxch5's settings for a benchmark's arguments."""
    return {
        "data": {
            "path": str(arguments.path),
            "presize": arguments.presize,
            "size": arguments.size,
            "batch_size": arguments.batch,
            "cache": cache,
        },
        "model": {
            "arch": arguments.arch,
            "weights": "none",
            "precision": arguments.precision,
        },
    }


def request_of(learn: Learner, arguments: Any, device: str) -> dict[str, Any]:
    """Returns the request that makes the peer do the same with the same files.

    Its keys are described in fastai_learner.py.
    """
    data = learn.data
    source, items = data.source, [*data.train.items, *data.valid.items]
    assert source.file is not None
    return {
        "files": [str(source.file(int(item))) for item in items],
        "labels": [source.classes[source.labels[item]] for item in items],
        "train": len(data.train.items),
        "arch": arguments.arch,
        "presize": arguments.presize,
        "size": arguments.size,
        "batch": arguments.batch,
        "workers": arguments.workers,
        "device": device,
        "precision": arguments.precision,
    }


def facts(learn: Learner) -> dict[str, Any]:
    """Returns what has to be the same on both sides."""
    import jax

    data = learn.data
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(learn.state.params)),
        "train": len(data.train.items),
        "valid": len(data.valid.items),
        "steps": len(data.train),
        "shape": [data.size, data.size],
        "classes": len(data.classes),
    }


def first_step(settings: dict[str, Any]) -> float:
    """Returns the loss of the first step; as in jaxch5's commands, compiled programs are kept."""
    import jax

    from jaxch5.data.pipeline import to_device
    from jaxch5.training.loop import epoch_key
    from jaxch5.training.process import prepare_process

    prepare_process()
    learn = learner_of(settings)
    batch = next(to_device(learn.data.train.steps(0, 1)))
    _, metrics = learn._steps.train(learn.state, batch, epoch_key(jax.random.key(0), 0))
    return float(metrics["loss"])


def fine_tuned(settings: dict[str, Any], epochs: str) -> float:
    """Fine-tunes and writes the report, as `jaxch5 train` does, and returns the last loss."""
    from jaxch5.config.settings import Config
    from jaxch5.run.directory import create_run
    from jaxch5.training.process import prepare_process

    prepare_process()
    learn = learner_of(settings)
    with tempfile.TemporaryDirectory() as folder:
        learn.run = create_run(Config.model_validate(settings), Path(folder) / "run")
        learn.fine_tune(int(epochs), freeze_epochs=1)
        assert (learn.run.path / "report.html").exists()
    return float(learn.recorder.losses[-1])


def main() -> None:
    command, device, settings, *others = sys.argv[1:]
    measured = {"--first-step": first_step, "--fine-tune": fine_tuned}[command]
    use_device(device)
    print(json.dumps({"loss": measured(json.loads(settings), *others)}), flush=True)


if __name__ == "__main__":
    main()
