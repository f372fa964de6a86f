"""Compares our input pipeline with fastai's in pictures per second, from files to batches.

Both sides decode the same files, resize the pictures so that all their short sides are equally
long, and yield shuffled batches of bytes. fastai's `Resize` crops each picture to a square; our
side keeps the entire picture on its canvas. On a GPU both sides copy each batch to the GPU.

The sides take turns. An entire epoch is timed, including its start. The processor time of our side
is reported too, because it depends less on what else runs on the machine. Without a peer, the
benchmark also measures how fast our later epochs read pictures from memory, and how much time and
memory it takes to build a source.

The peer runs this same file in the interpreter that JAXCH5_PEER_PYTHON names (an environment
installed from requirements.txt), because the two sides are not installed in the same environment.

    JAXCH5_PEER_PYTHON=~/peer/bin/python python benchmarks/data.py --path ~/photos

With `--before`, another working copy of jaxch5 takes turns too, so that the cost of a change can be
measured in the same run:

    git worktree add ../before HEAD~1 && python benchmarks/data.py --before ../before ...
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
import tracemalloc
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common import (
    PLATFORMS,
    arguments_of,
    find_files,
    in_turn,
    ratio,
    same,
    spread,
    tell,
    use_device,
)
from peer import Peer, answer_requests, declare_torchvision_operators, peer_python

LATER_EPOCHS = 3


class Ours:
    """Runs our side; each turn begins with an empty cache, which its first epoch fills."""

    def __init__(self, request: dict[str, Any]) -> None:
        import numpy as np

        from jaxch5.data.source import labelled_files

        self.request = request
        names = [Path(file).parent.name for file in request["files"]]
        self.source = labelled_files(Path("/"), request["files"], names)
        self.items = np.arange(len(self.source))

    def rates(self) -> tuple[float, float, float]:
        """Measures one turn of our side.

        Returns:
            Pictures per second in the first epoch, their median in the later epochs, and the
            processor's milliseconds per picture in the first epoch.
        """
        from jaxch5.data.canvases import Canvases
        from jaxch5.data.pipeline import Loader, to_device

        canvases = Canvases(self.source, self.request["presize"], keep=True)
        loader = Loader(canvases, self.items, self.request["batch"], seed=0)

        def epoch(number: int) -> float:
            batches = loader.epoch(number)
            if self.request["device"] != "cpu":
                batches = to_device(batches)
            rate, self.pictures = pictures_a_second(batch.image for batch in batches)
            return rate

        begin = time.process_time()
        first = epoch(0)
        processor = (time.process_time() - begin) / self.pictures * 1e3
        later = map(epoch, range(1, 1 + LATER_EPOCHS))
        return first, statistics.median(later), processor


def pictures_a_second(batches: Any) -> tuple[float, int]:
    """Measures how many pictures per second an iterable of batches yields, and counts them."""
    begin = time.perf_counter()
    count = sum(len(pictures) for pictures in batches)
    return count / (time.perf_counter() - begin), count


def serve() -> None:
    """Runs the peer's side: reads one request per line, and answers each with one line."""
    declare_torchvision_operators()
    loaders: list[Any] = []

    def answer(request: dict[str, Any]) -> tuple[float, int]:
        if not loaders:
            loaders.append(fastai_loader(request))
        return pictures_a_second(batch[0] for batch in loaders[0])

    answer_requests(answer)


def serve_ours(folder: str) -> None:
    """Runs the side of another working copy of jaxch5, in its own process."""
    sys.path.insert(0, str(Path(folder).resolve()))
    use_device("cpu")
    sides: list[Ours] = []

    def answer(request: dict[str, Any]) -> tuple[tuple[float, float, float], int]:
        if not sides:
            sides.append(Ours(request))
        return sides[0].rates(), sides[0].pictures

    answer_requests(answer)


def fastai_loader(request: dict[str, Any]) -> Any:
    from fastai.vision.all import DataBlock, ImageBlock, Pipeline, Resize

    block = DataBlock(
        blocks=(ImageBlock,),
        get_items=lambda files: [Path(file) for file in files],
        splitter=lambda items: (list(range(len(items))), [0]),
        item_tfms=Resize(request["presize"]),
    )
    loaders = block.dataloaders(
        request["files"],
        bs=request["batch"],
        num_workers=request["workers"],
        device=request["device"],
    )
    # Without this line fastai would convert each batch to floats here; on our side, that happens
    # later, on the device.
    loaders.train.after_batch = Pipeline([])
    return loaders.train


def measure_sources() -> dict[str, float]:
    """Measures the time to build a source of 100,000 files, and the memory of a million items."""
    from jaxch5.data.source import labelled_files
    from jaxch5.data.sources.folder import from_folder

    with tempfile.TemporaryDirectory() as root:
        for folder in range(100):
            os.mkdir(f"{root}/class_{folder:03d}")
            for number in range(1000):
                Path(f"{root}/class_{folder:03d}/{number:06d}.jpg").touch()
        begin = time.perf_counter()
        from_folder(root)
        seconds = time.perf_counter() - begin
        tracemalloc.start()
        from_folder(root)
        peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    million = labelled_files(
        Path("/"),
        [f"train/class_{item % 1000:04d}/{item:08d}.jpg" for item in range(10**6)],
        [f"class_{item % 1000:04d}" for item in range(10**6)],
    )
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(million) == 10**6
    return {
        "seconds_for_100000_files": round(seconds, 2),
        "peak_mb_for_100000_files": round(peak / 1e6, 1),
        "held_mb_for_a_million_items": round(held / 1e6, 1),
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Times the sides alternately; returns their pictures per second, and the ratio of these."""
    python = peer_python(required=True)
    assert python is not None
    files = find_files(arguments.path, arguments.repeat)
    request = {
        "files": files,
        "presize": arguments.presize,
        "batch": arguments.batch,
        "workers": arguments.workers,
        "device": PLATFORMS[arguments.device],
    }
    ours = Ours(request)
    later: dict[str, list[float]] = {"ours": [], "before": []}
    processor: dict[str, list[float]] = {"ours": [], "before": []}

    def first_of(side: str, first: float, from_memory: float, milliseconds: float) -> float:
        later[side].append(from_memory)
        processor[side].append(milliseconds)
        return first

    def mine() -> float:
        return first_of("ours", *ours.rates())

    with ExitStack() as opened:
        peer = opened.enter_context(Peer(python, __file__, "--serve"))

        def fastais() -> float:
            rate, count = peer.ask(**request)
            same("the number of pictures", ours.pictures, count)
            return rate

        sides = {"ours": mine, "peer": fastais}
        if arguments.before:
            earlier = opened.enter_context(
                Peer(sys.executable, __file__, "--serve-ours", str(arguments.before))
            )

            def earlier_rate() -> float:
                rates, count = earlier.ask(**request)
                same("the number of pictures", ours.pictures, count)
                return first_of("before", *rates)

            sides["before"] = earlier_rate
        # The first turn, which is not counted, reads the files from the disk.
        rates = in_turn(sides, arguments.turns)
    compared = {}
    if arguments.before:
        compared = {
            "before": spread(rates["before"]),
            "ratio_to_before": ratio(rates["ours"], rates["before"]),
            "ratio_to_before_of_later_epochs": ratio(later["ours"][1:], later["before"][1:]),
            "processor_ms_a_picture_before": spread(processor["before"][1:]),
        }
    return {
        **compared,
        "unit": "pictures a second",
        "ours": spread(rates["ours"]),
        "peer": spread(rates["peer"]),
        "ratio": ratio(rates["ours"], rates["peer"]),
        "processor_ms_a_picture": spread(processor["ours"][1:]),
        "later_epochs": spread(later["ours"][1:]),
        "pictures_an_epoch": ours.pictures,
        "turns": arguments.turns,
    }


def main() -> None:
    if sys.argv[1:] == ["--serve"]:
        serve()
        return
    if sys.argv[1:2] == ["--serve-ours"]:
        serve_ours(sys.argv[2])
        return
    parser = arguments_of(__doc__, path=True)
    parser.add_argument("--presize", type=int, default=192, help="length of short sides, pixels")
    parser.add_argument("--batch", type=int, default=32, help="pictures per batch")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="fastai's worker processes"
    )
    parser.add_argument(
        "--repeat",
        type=int,
        default=1,
        help="how often each picture occurs in an epoch; fastai's workers take about a second per "
        "epoch to start, and the longer the epoch, the less this matters",
    )
    parser.add_argument(
        "--before",
        type=Path,
        help="another working copy of jaxch5, which takes turns with the others; for a CPU only",
    )
    arguments = parser.parse_args()
    use_device(arguments.device)
    tell({**measure(arguments), "sources": measure_sources()}, arguments.json)


if __name__ == "__main__":
    main()
