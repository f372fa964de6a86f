"""Trains runs in processes that a test may kill.

Each line of standard input gives a cache and a run's path. The program imports everything once and
forks for each run, so that a run begins in a fraction of a second. It prints the process ID of each
child, and the child's exit status when the child has ended.
"""

import hashlib
import os
import sys
from pathlib import Path

import flax.linen as nn
import jax
import matplotlib.figure  # noqa: F401 (imported once here, so not in each run)
import numpy as np
import sklearn.metrics  # noqa: F401
from rich.console import Console

from jaxch5.config.settings import Config
from jaxch5.data.block import DataBlock
from jaxch5.data.source import from_arrays
from jaxch5.data.split import random_split
from jaxch5.learner import vision_learner
from jaxch5.run.directory import RunDir, create_run
from jaxch5.run.hooks.checkpoints import Saving
from jaxch5.training.process import prepare_process


class Tiny(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(nn.Conv(4, (3, 3), name="conv1")(x))
        x = nn.BatchNorm(use_running_average=not train, name="bn1")(x).mean((1, 2))
        return nn.Dense(2, name="head")(nn.Dropout(0.1, deterministic=not train)(x))


def train(path, cache):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50, 12, 16, 3), dtype=np.uint8)
    source = from_arrays(images, np.arange(50) % 2, ["a", "b"])
    block = DataBlock(source, random_split(0.2), presize=12, size=8, augment=None)
    learn = vision_learner(block.load(8, cache=cache), Tiny())
    learn.console = Console(file=sys.stderr)
    learn.saving = Saving(every_steps=2)
    learn.run = RunDir(path)
    if learn.run.config_file.exists():
        learn.restore(learn.run)
    else:
        create_run(Config(), path)
    learn.fine_tune(1, base_lr=0.05, freeze_epochs=1)
    leaves = jax.device_get(jax.tree.leaves(learn.state))
    (path / "written").write_text(hashlib.sha256(b"".join(map(np.asarray, leaves))).hexdigest())
    (path / "written").rename(path / "bits")


if __name__ == "__main__":
    # Devices are not checked here, since a process that has checked them cannot be forked.
    prepare_process(alone=False)
    for line in sys.stdin:
        if not (child := os.fork()):
            cache, path = line.rstrip("\n").split(" ", 1)
            train(Path(path), cache)
            os._exit(0)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
