"""Long runs take no more memory, file handles or threads than short ones."""

import io
import json
import subprocess
import sys
import threading
from pathlib import Path

import flax.linen as nn
import numpy as np
import psutil
import pytest
from rich.console import Console

from jaxch5.config.settings import Config
from jaxch5.data.block import DataBlock
from jaxch5.data.source import from_arrays
from jaxch5.data.split import random_split
from jaxch5.learner import vision_learner
from jaxch5.run.directory import create_run


class Tiny(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3))(x)).mean((1, 2))
        return nn.Dense(2)(x)


class Watch(io.StringIO):
    """A file for the table of training that records, at each line, what the process holds.

    It records the memory, the file handles and the threads.
    """

    def __init__(self):
        super().__init__()
        self.process, self.held = psutil.Process(), []

    def write(self, text):
        if text.strip():
            memory = self.process.memory_info().rss / 1e6
            self.held.append((memory, self.process.num_fds(), threading.active_count()))
        return len(text)


def learner():
    images = np.random.default_rng(0).integers(0, 256, (20, 12, 12, 3), dtype=np.uint8)
    source = from_arrays(images, np.arange(20) % 2, ["a", "b"])
    block = DataBlock(source, random_split(0.2), presize=12, size=8, augment=None)
    learn = vision_learner(block.load(8), Tiny())
    learn.console = Console(file=Watch())
    return learn


def main():
    learn = learner()
    learn.fit(1050, 1e-3)
    print(json.dumps([learn.console.file.held[at] for at in (50, -1)]))


@pytest.mark.slow
def test_a_thousand_epochs_take_the_memory_of_fifty():
    """A thousand epochs take at most 10 MB more than fifty, and no more handles or threads.

    They run in a process of their own, free of other tests' threads and memory.
    """
    command = [sys.executable, "-m", "tests.test_long_runs"]
    root = Path(__file__).parents[1]
    ended = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=True)
    early, late = json.loads(ended.stdout)
    assert late[0] - early[0] < 10
    # Open files and threads.
    assert all(after <= before for after, before in zip(late[1:], early[1:], strict=True))


def test_saving_leaves_no_handles_and_no_threads(tmp_path):
    """Saving each epoch does not increase the number of file handles and threads.

    The pools of the storage library are created by the first saves, and do not grow.
    """
    learn = learner()
    learn.run = create_run(Config(), tmp_path / "run")
    learn.fit(80, 1e-3)
    held = learn.console.file.held
    early, late = held[20:50], held[50:]
    for kind in (1, 2):
        most = max(row[kind] for row in early)
        assert np.median([row[kind] for row in late]) <= most


if __name__ == "__main__":
    main()
