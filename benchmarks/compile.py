"""Counts what `lr_find` and `fine_tune` compile with an empty cache, in programs and CPU seconds.

The seconds are those that this process spends on all cores. They include tracing, lowering and
compiling, and also a few training steps on a few small pictures. These steps take little time, and
a program for pictures of 64 pixels takes as long to compile as one for 224. With `--tree`, the
package in another checkout is measured.

    python benchmarks/compile.py
    python benchmarks/compile.py --tree ~/before
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from common import arguments_of, tell


class Parts:
    """Measures the CPU seconds of each part of the work, and counts the programs it compiles."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, Any]] = {}
        self.programs: Counter[str] = Counter()
        self.last = time.process_time()

    def listen(self, event: str, seconds: float, **of: Any) -> None:
        """Counts a compiled program; JAX calls this for every event."""
        if event.endswith("backend_compile_duration"):
            self.programs[str(of.get("fun_name"))] += 1

    def ended(self, name: str) -> None:
        """Records the figures of the part that has just ended."""
        now = time.process_time()
        steps = {name: count for name, count in self.programs.items() if "step" in name}
        seconds, programs = round(now - self.last, 1), self.programs.total()
        self.found[name] = {"CPU s": seconds, "programs": programs, "steps": steps}
        self.programs, self.last = Counter(), now

    def hook(self, event: Any) -> None:
        """Records the end of each phase of `fine_tune`; training calls this for every event."""
        if type(event).__name__ == "Epoch":
            self.ended(event.record["phase"])


def measure(arch: str, folder: Path) -> dict[str, Any]:
    """Measures the parts of a learning-rate sweep and of a fine-tuning, including its report."""
    import jax
    import numpy as np
    from rich.console import Console

    import jaxch5 as jx
    from jaxch5.config.settings import Config
    from jaxch5.run.directory import create_run
    from jaxch5.training.process import prepare_process

    prepare_process()
    images = np.random.default_rng(0).integers(0, 256, (10, 80, 96, 3), dtype=np.uint8)
    source = jx.from_arrays(images, np.arange(10) % 2, ["a", "b"])
    block = jx.DataBlock(source, jx.random_split(0.2, seed=1), presize=72, size=64)
    data = block.load(batch_size=4)
    parts = Parts()
    jax.monitoring.register_event_duration_secs_listener(parts.listen)
    learn = jx.vision_learner(data, arch, "none", hooks=[partial(Parts.hook, parts)])
    learn.console = Console(quiet=True)
    learn.freeze()
    parts.ended("learner")
    learn.lr_find(num_it=14)
    parts.ended("lr_find")
    learn.run = create_run(Config(), folder / "run")
    learn.fine_tune(1, base_lr=1e-3, freeze_epochs=1)
    parts.ended("report")
    total = round(sum(part["CPU s"] for part in parts.found.values()), 1)
    return {"package": str(Path(jx.__file__).parent), **parts.found, "CPU s in all": total}


def main() -> None:
    parser = arguments_of(__doc__, turns=None, device=False)
    parser.add_argument("--arch", default="resnet50", help="architecture (default: resnet50)")
    parser.add_argument("--tree", type=Path, help="checkout whose package is measured")
    arguments = parser.parse_args()
    if arguments.tree:
        sys.path.insert(0, str(arguments.tree.resolve()))
    with tempfile.TemporaryDirectory() as name:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{name}/compiled"
        tell(measure(arguments.arch, Path(name)), arguments.json)


if __name__ == "__main__":
    main()
