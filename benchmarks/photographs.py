"""Writes JPEG files that stand in for photographs and take as long to decode.

They contain smooth random fields with some noise, have 500 by 333 pixels, and take about 60 KB
each. There is one folder per class, and the classes differ in their colours.

    python benchmarks/photographs.py FOLDER --count 2000
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

WIDTH, HEIGHT, QUALITY = 500, 333, 90


def photograph(rng: np.random.Generator, color: np.ndarray) -> np.ndarray:
    """Returns a picture of blobs of four sizes, with grain, around a colour; [HEIGHT, WIDTH, 3]."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.float32) + color.astype(np.float32)
    for cells, strength in ((4, 60), (16, 40), (64, 20), (200, 12)):
        field = rng.normal(0, strength, (cells, cells, 3)).astype(np.float32)
        picture += cv2.resize(field, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return (picture + rng.normal(0, 4, picture.shape)).clip(0, 255).astype(np.uint8)


def write(folder: Path, count: int, classes: int) -> None:
    """Writes `count` files, of which a fifth goes to valid/ and the others go to train/."""

    def one(number: int) -> None:
        rng = np.random.default_rng(number)
        color = np.random.default_rng([number % classes, 7]).uniform(60, 200, 3)
        part = "valid" if number // classes % 5 == 0 else "train"
        file = folder / part / f"class_{number % classes:02d}" / f"{number:05d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), photograph(rng, color), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])

    with ThreadPoolExecutor() as pool:
        list(pool.map(one, range(count)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path, help="new folder to write to")
    parser.add_argument("--count", type=int, default=2000, help="files (default: 2000)")
    parser.add_argument("--classes", type=int, default=10, help="classes (default: 10)")
    arguments = parser.parse_args()
    write(arguments.folder, arguments.count, arguments.classes)


if __name__ == "__main__":
    main()
