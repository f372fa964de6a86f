"""Compares packed pictures with the files that they come from, in speed and in disk space.

In each turn, a folder of pictures is packed, and then a first epoch is read from the files and
another from the packed set. An epoch goes from stored pictures to shuffled batches of bytes, and no
pictures are cached. Other codecs are measured too, and so are the time and the memory for opening a
packed set of a million items.

    python benchmarks/pack.py --path ~/photos
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from common import arguments_of, find_files, in_turn, ratio, spread, tell
from data import pictures_a_second
from PIL import Image

from jaxch5.data.canvases import Canvases
from jaxch5.data.image import decode
from jaxch5.data.image import presize as lay
from jaxch5.data.packing import SHARD_SIZE, pack, without_filling
from jaxch5.data.pipeline import Loader
from jaxch5.data.source import Source, labelled_files
from jaxch5.data.sources.packed import (
    INDEX,
    LABELS,
    REFERENCES,
    Index,
    Shard,
    Stored,
    from_packed,
)
from jaxch5.data.sources.store import sha256_of
from jaxch5.data.split import random_split

MILLION = 10**6
# To compare codecs, it is enough to measure one in this many pictures.
SAMPLED = 7


def epoch_rate(source: Source, presize: int, batch: int) -> float:
    """Measures pictures per second of one epoch, including its start."""
    canvases = Canvases(source, presize, keep=False)
    loader = Loader(canvases, np.arange(len(source)), batch, seed=0)
    return pictures_a_second(batch.image for batch in loader.epoch(0))[0]


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures the speeds, in turns that each write a packed set of their own."""
    names = find_files(arguments.path, arguments.repeat)
    files = labelled_files(Path("/"), names, [Path(name).parent.name for name in names])
    of_epoch = partial(epoch_rate, presize=arguments.presize, batch=arguments.batch)
    with tempfile.TemporaryDirectory() as folder:
        packed: list[tuple[Path, Index]] = []

        def packing() -> float:
            out, begin = Path(folder) / str(len(packed)), time.perf_counter()
            packed.append((out, pack(files, out, arguments.presize)))
            return len(files) / (time.perf_counter() - begin)

        sides = {
            "packing": packing,
            "files": lambda: of_epoch(files),
            "packed": lambda: of_epoch(from_packed(packed[-1][0])),
        }
        rates = in_turn(sides, arguments.turns)
    room = sum(shard.bytes for shard in packed[-1][1].shards if shard is not None)
    return {
        "unit": "pictures a second",
        **{name: spread(values) for name, values in rates.items()},
        "ratio": ratio(rates["packed"], rates["files"]),
        "kb_a_file": sum(os.path.getsize(name) for name in names) / len(names) / 1e3,
        "kb_a_packed_picture": room / len(names) / 1e3,
        "pictures": len(names),
        "turns": arguments.turns,
    }


def measure_codecs(path: Path, presize: int) -> dict[str, dict[str, float]]:
    """Measures the codecs on presized pictures without padding.

    The figures are the size of a file, the loss in decibels, and the time to decode on one core.
    """
    pictures = []
    for name in find_files(path, 1)[::SAMPLED]:
        canvas, frame = lay(decode(Path(name).read_bytes(), min_side=presize), presize)
        pictures.append(without_filling(canvas, frame))

    def pillow(picture: np.ndarray, form: str, **options: Any) -> bytes:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, form, **options)
        return file.getvalue()

    def measured(encode: Callable[[np.ndarray], bytes]) -> dict[str, float]:
        contents = [encode(picture) for picture in pictures]
        begin = time.perf_counter()
        decoded = [decode(content, min_side=presize) for content in contents]
        seconds = time.perf_counter() - begin
        errors = [
            np.mean((one.astype(float) - other) ** 2)
            for one, other in zip(pictures, decoded, strict=True)
        ]
        with np.errstate(divide="ignore"):
            losses = 10 * np.log10(255**2 / np.array(errors))
        return {
            "kb": float(np.mean([len(content) for content in contents])) / 1e3,
            "db_median": float(np.median(losses)),
            "db_lowest": float(np.min(losses)),
            "ms_to_decode": 1e3 * seconds / len(contents),
        }

    codecs = {
        f"JPEG {quality} {colours}": partial(
            simplejpeg.encode_jpeg, quality=quality, colorspace="RGB", colorsubsampling=colours
        )
        for quality, colours in (
            (90, "420"),
            (95, "420"),
            (90, "444"),
            (95, "444"),
            (98, "444"),
        )
    }
    codecs["PNG"] = partial(pillow, form="PNG")
    codecs["WebP lossless"] = partial(pillow, form="WEBP", lossless=True, method=0)
    return {name: measured(encode) for name, encode in codecs.items()}


def measure_million() -> dict[str, float]:
    """Measures opening and splitting a packed set of a million items, whose shards are not read."""
    with tempfile.TemporaryDirectory() as folder:
        labels, references = Path(folder) / LABELS, Path(folder) / REFERENCES
        np.save(labels, np.arange(MILLION, dtype=np.int32) % 1000)
        with references.open("w") as opened:
            opened.writelines(
                f'"train/class_{item % 1000:04d}/{item:08d}.jpg"\n' for item in range(MILLION)
            )

        def stored(file: Path) -> Stored:
            return Stored(file=file.name, bytes=file.stat().st_size, sha256=sha256_of(file))

        starts = range(0, MILLION, SHARD_SIZE)
        index = Index(
            plan="",
            presize=192,
            quality=95,
            classes=tuple(f"class_{number:04d}" for number in range(1000)),
            shards=tuple(
                Shard(file=str(start), bytes=0, sha256="", count=min(SHARD_SIZE, MILLION - start))
                for start in starts
            ),
            labels=stored(labels),
            references=stored(references),
        )
        (Path(folder) / INDEX).write_text(index.model_dump_json())
        tracemalloc.start()
        source = from_packed(folder)
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        begin = time.perf_counter()
        source = from_packed(folder)
        opening = time.perf_counter() - begin
        begin = time.perf_counter()
        random_split()(source)
        splitting = time.perf_counter() - begin
        tracemalloc.start()
        random_split()(source)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return {
        "seconds_to_open": round(opening, 2),
        "held_mb": round(held / 1e6, 1),
        "seconds_to_split_at_random": round(splitting, 1),
        "peak_mb_of_the_split": round(peak / 1e6, 1),
    }


def main() -> None:
    parser = arguments_of(__doc__, device=False, path=True)
    parser.add_argument("--presize", type=int, default=192, help="length of short sides, pixels")
    parser.add_argument("--batch", type=int, default=32, help="pictures per batch")
    parser.add_argument("--repeat", type=int, default=3, help="how often each picture occurs")
    arguments = parser.parse_args()
    result = {
        **measure(arguments),
        "codecs": measure_codecs(arguments.path, arguments.presize),
        "million": measure_million(),
    }
    tell(result, arguments.json)


if __name__ == "__main__":
    main()
