"""Input pipeline against fastai's: pictures a second from files to batches, in turn.

Both sides decode the same files, bring their short side to one size and hand out shuffled batches
of bytes; fastai's `Resize` crops to a square, ours keeps the whole picture on its canvas. An epoch
is timed whole, with its start. The peer runs this same file in the interpreter that
JAXCH5_PEER_PYTHON names (made from requirements.txt), because the two are not installed together.
Ours alone is measured besides: epochs from memory, and what it takes to build a source.

    JAXCH5_PEER_PYTHON=~/peer/bin/python python benchmarks/data.py --path ~/photos
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any

from peer import (
    Peer,
    answer_requests,
    declare_torchvision_operators,
    peer_python,
    show,
    spread,
)

SUFFIXES = (".jpg", ".jpeg", ".png")
LATER_EPOCHS = 3


class Ours:
    """Each turn has its own empty cache, which the first epoch fills."""

    def __init__(self, request: dict[str, Any]) -> None:
        import numpy as np

        from jaxch5.data.source import labelled_files

        self.request = request
        names = [Path(file).parent.name for file in request["files"]]
        self.source = labelled_files(Path("/"), request["files"], names)
        self.items = np.arange(len(self.source))

    def rates(self) -> tuple[float, float]:
        from jaxch5.data.pipeline import Canvases, Loader

        canvases = Canvases(self.source, self.request["presize"], keep=True)
        loader = Loader(canvases, self.items, self.request["batch"], seed=0)
        rates = [
            pictures_a_second(batch.image for batch in loader.epoch(number))
            for number in range(1 + LATER_EPOCHS)
        ]
        return rates[0], statistics.median(rates[1:])


def pictures_a_second(batches: Any) -> float:
    """Of an iterable of each batch's pictures."""
    begin = time.perf_counter()
    count = sum(len(pictures) for pictures in batches)
    return count / (time.perf_counter() - begin)


def serve() -> None:
    """The peer's side: reads a request a line, answers each with a line."""
    declare_torchvision_operators()
    loaders: list[Any] = []

    def answer(request: dict[str, Any]) -> float:
        if not loaders:
            loaders.append(fastai_loader(request))
        return pictures_a_second(batch[0] for batch in loaders[0])

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
        request["files"], bs=request["batch"], num_workers=request["workers"], device="cpu"
    )
    # Without it each batch would become floats here, which on our side happens on the device.
    loaders.train.after_batch = Pipeline([])
    return loaders.train


def measure_sources() -> dict[str, float]:
    """Building a source of 100,000 files, and what one of a million items holds."""
    from jaxch5.data.source import from_folder, labelled_files

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


def measure(files: list[str], arguments: argparse.Namespace, python: str) -> dict[str, Any]:
    """Pictures a second of both sides and their ratio, over `turns` alternations."""
    request = {
        "files": files,
        "presize": arguments.presize,
        "batch": arguments.batch,
        "workers": arguments.workers,
    }
    ours, peer = Ours(request), Peer(python, __file__, "--serve")
    first: list[float] = []
    later: list[float] = []
    theirs: list[float] = []
    # The first turn reads the files from the disk and is not counted.
    for turn in range(1 + arguments.turns):
        rates, peer_rate = ours.rates(), peer.ask(**request)
        if turn:
            first.append(rates[0])
            later.append(rates[1])
            theirs.append(peer_rate)
    peer.close()
    return {
        "ours": spread(first),
        "peer": spread(theirs),
        "ratio": spread([mine / other for mine, other in zip(first, theirs, strict=True)]),
        "later_epochs": spread(later),
        "pictures_an_epoch": len(files),
        "turns": arguments.turns,
    }


def find_files(path: Path, repeat: int) -> list[str]:
    """All pictures below a folder, each of them `repeat` times."""
    files = sorted(str(file) for file in path.resolve().rglob("*") if file.suffix in SUFFIXES)
    if not files:
        sys.exit(f"{path}: holds no pictures")
    return files * repeat


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument(
        "--path", type=Path, default=os.environ.get("JAXCH5_FLOWERS"), help="folder of pictures"
    )
    parser.add_argument("--presize", type=int, default=192, help="short side, pixels")
    parser.add_argument("--batch", type=int, default=32, help="pictures a batch")
    parser.add_argument("--workers", type=int, default=2, help="fastai's worker processes")
    parser.add_argument("--turns", type=int, default=5, help="alternations of the two sides")
    parser.add_argument(
        "--repeat",
        type=int,
        default=1,
        help="times that each picture comes in an epoch: the more, the less the start of fastai's "
        "workers weighs, which is a second or so an epoch",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
        return
    python = peer_python(required=True)
    if arguments.path is None:
        sys.exit("--path or JAXCH5_FLOWERS should name a folder of pictures")
    result = {
        **measure(find_files(arguments.path, arguments.repeat), arguments, python),
        "sources": measure_sources(),
    }
    if arguments.json:
        print(json.dumps(result))
        return
    for label, key, unit in (
        ("first epoch, ours", "ours", " pictures/s"),
        ("first epoch, fastai", "peer", " pictures/s"),
        ("ratio", "ratio", ""),
        ("later epochs, from memory", "later_epochs", " pictures/s"),
    ):
        print(f"{label}: {show(result[key])}{unit}")
    print(f"{result['pictures_an_epoch']} pictures an epoch, {result['turns']} turns")
    for key, value in result["sources"].items():
        print(f"{key.replace('_', ' ')}: {value}")


if __name__ == "__main__":
    main()
