"""Measures what reliability costs: the time to save and to resume, and the memory of a long run.

    python benchmarks/reliability.py saving --path DIR
    python benchmarks/reliability.py resume --path DIR
    python benchmarks/reliability.py long
    python benchmarks/reliability.py arrays

`saving` saves a ResNet-18 that is being trained, and measures the time until training continues and
the time until everything is written. The second time shows how much of each minute would be lost at
most if a run were saved once a minute and no part of a save were done in the background.
`resume` starts a new run and resumes an interrupted one, alternately, and measures the time until
the first step begins.
`long` trains a tiny network for 2,000 epochs, saves it after each epoch, and monitors memory, file
handles and threads.
`arrays` saves a few small arrays 600 times, both in the format of jaxch5's checkpoints and in
orbax's own format. It shows whether orbax's own format has become good enough to be used instead.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from common import arguments_of, find_files, in_turn, ratio, spread, tell


def saving(flowers: Path, turns: int) -> dict[str, Any]:
    from rich.console import Console

    from jaxch5.config.building import load_data
    from jaxch5.config.settings import Config
    from jaxch5.configured import learner_of
    from jaxch5.run.checkpoint import Checkpoints

    values = {"data": {"path": str(flowers)}, "model": {"weights": "none"}}
    config = Config.model_validate(values)
    learn = learner_of(load_data(config), config)
    learn.console = Console(file=io.StringIO())
    learn.fit(1, 1e-4)
    seconds: dict[str, list[float]] = {"blocking": [], "whole": []}
    with tempfile.TemporaryDirectory() as folder, Checkpoints(Path(folder)) as saves:
        for number in range(turns + 1):
            state = learn.state.replace(step=learn.state.step + number)
            began = time.perf_counter()
            saves.save(state, learn.records, epoch_done=False)
            blocking = time.perf_counter() - began
            saves.wait()
            # The first save is not counted, because it starts threads.
            if number:
                seconds["blocking"].append(blocking)
                seconds["whole"].append(time.perf_counter() - began)
    percent = [value / 0.6 for value in seconds["whole"]]
    return {
        "seconds_until_training_goes_on": spread(seconds["blocking"]),
        "seconds_until_written": spread(seconds["whole"]),
        "percent_of_a_minute_at_most": spread(percent),
    }


def resume(flowers: Path, turns: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder, runs = Path(name), iter(range(turns + 1))
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled")}
        command = [sys.executable, "-m", "jaxch5.train"]
        run = folder

        def fresh() -> float:
            nonlocal run
            run = folder / str(next(runs))
            settings = ["--data.path", str(flowers), "--model.weights", "none"]
            return to_first_epoch([*command, *settings, "--workdir", str(run)], environment)

        def resumed() -> float:
            return to_first_epoch([*command, "--resume", str(run)], environment)

        # The first turn compiles.
        seconds = in_turn({"fresh": fresh, "resumed": resumed}, turns)
    return {
        "unit": "seconds",
        **{name: spread(values) for name, values in seconds.items()},
        "ratio": ratio(seconds["resumed"], seconds["fresh"]),
    }


def to_first_epoch(command: list[str], environment: dict[str, str]) -> float:
    """Measures the seconds until the table begins, and with it the first step.

    The run is interrupted a few seconds later.
    """
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch"):
            break
    seconds = time.perf_counter() - began
    # Let the run make some steps, so that there is something to resume.
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    process.communicate()
    return seconds


def long(epochs: int) -> dict[str, Any]:
    import flax.linen as nn
    import numpy as np
    import psutil
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

    process, seen = psutil.Process(), []

    class Watch(io.StringIO):
        """Records memory, open files and threads at each line of the table, that is, each epoch."""

        def write(self, text: str) -> int:
            if text.strip():
                memory = process.memory_info().rss / 1e6
                seen.append((memory, process.num_fds(), threading.active_count()))
            return len(text)

    images = np.random.default_rng(0).integers(0, 256, (20, 12, 12, 3), dtype=np.uint8)
    source = from_arrays(images, np.arange(20) % 2, ["a", "b"])
    block = DataBlock(source, random_split(0.2), presize=12, size=8, augment=None)
    learn = vision_learner(block.load(8), Tiny())
    learn.console = Console(file=Watch())
    with tempfile.TemporaryDirectory() as folder:
        learn.run = create_run(Config(), Path(folder) / "run")
        began = time.perf_counter()
        learn.fit(epochs, 1e-3)
        seconds = time.perf_counter() - began
    rows = seen[1:]
    after, last = rows[50], rows[-1]
    marks = {epoch: round(rows[epoch][0], 1) for epoch in range(50, len(rows), len(rows) // 8)}
    return {
        "epochs": len(rows),
        "seconds": seconds,
        "memory_after_50_epochs_mb": after[0],
        "growth_mb": last[0] - after[0],
        "memory_at_mb": marks,
        "file_handles": [after[1], last[1]],
        "threads": [after[2], last[2]],
    }


def arrays(turns: int) -> dict[str, Any]:
    figures: dict[str, dict[str, list[float]]] = {}
    for _ in range(turns):
        for way in ("ours", "orbax"):
            script = f"import reliability; reliability.saves_of_arrays({way!r})"
            command = [sys.executable, "-c", script]
            printed = subprocess.check_output(command, text=True, cwd=Path(__file__).parent)
            for name, value in json.loads(printed).items():
                figures.setdefault(way, {}).setdefault(name, []).append(value)
    return {way: {name: spread(one) for name, one in of.items()} for way, of in figures.items()}


def saves_of_arrays(way: str, count: int = 600) -> None:
    """Prints what a save in one format costs; each format needs a process of its own."""
    import jax.numpy as jnp
    import numpy as np
    import orbax.checkpoint as ocp
    import psutil

    from jaxch5.run.arrays import SaveArrays, to_arrays

    tree = {f"layer{n}": {"kernel": jnp.ones((3, 3, 3, 4)), "bias": jnp.ones(4)} for n in range(8)}
    kind = SaveArrays if way == "ours" else ocp.args.StandardSave
    at_once = ocp.AsyncOptions(create_directories_asynchronously=False)
    options = ocp.CheckpointManagerOptions(max_to_keep=2, create=False, async_options=at_once)
    blocking, whole, memory = [], [], []
    with (
        tempfile.TemporaryDirectory() as folder,
        ocp.CheckpointManager(Path(folder), options=options) as manager,
    ):
        for number in range(count):
            began = time.perf_counter()
            saved = kind(to_arrays(tree))
            manager.save(number, args=ocp.args.Composite(arrays=saved))
            blocking.append(time.perf_counter() - began)
            manager.wait_until_finished()
            whole.append(time.perf_counter() - began)
            memory.append(psutil.Process().memory_info().rss)
    print(
        json.dumps(
            {
                "milliseconds_until_training_goes_on": 1e3 * float(np.median(blocking)),
                "milliseconds_until_written": 1e3 * float(np.median(whole)),
                "growth_of_a_save_kb": (memory[-1] - memory[50]) / 1e3 / (count - 51),
            }
        )
    )


def main() -> None:
    parser = arguments_of(__doc__, device=False, path=True)
    parser.add_argument("part", choices=["saving", "resume", "long", "arrays"])
    parser.add_argument("--epochs", type=int, default=2000, help="epochs of `long` (default: 2000)")
    arguments = parser.parse_args()
    if arguments.part == "long":
        document = long(arguments.epochs)
    elif arguments.part == "arrays":
        document = arrays(arguments.turns)
    else:
        find_files(arguments.path)
        measure = saving if arguments.part == "saving" else resume
        document = measure(arguments.path, arguments.turns)
    tell(document, arguments.json)


if __name__ == "__main__":
    main()
