"""Measures how many altered copies, and how many pairs of originals, are found as near-duplicates.

The originals are all photographs below the given folders. By default 500 of them are drawn at
random, and each of these is altered in several ways. For every kind of alteration, the copies are
then looked up among all originals:

    python benchmarks/near.py flowers caltech --sheet pairs.png

`--sheet` draws the groups that are found among the originals alone, since only a person can tell
whether these are mistakes or true duplicates.

JAXCH5_PEER_PYTHON names the interpreter of the peer's environment. If imagehash, which
requirements.txt does not include, is installed there, its 64-bit `phash` is measured too, at two
distances: the largest at which it finds no more pairs of originals than jaxch5 does, and 10 bits,
which is often recommended.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
from common import arguments_of, tell
from peer import peer_python
from PIL import Image

from jaxch5.data.decode import decode
from jaxch5.data.near import find_near, thumbnail
from jaxch5.data.parallel import in_order

ADVISED = 10
HASHES = """
import sys, json, imagehash
from PIL import Image
for line in sys.stdin:
    print(json.dumps(int(str(imagehash.phash(Image.open(line.rstrip("\\n")))), 16)))
"""


def encoded(pixels, quality=80):
    _, file = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return file


def resized(pixels, factor):
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=method)


def bordered(pixels, rows, columns, level):
    border = (rows, rows, columns, columns)
    return cv2.copyMakeBorder(pixels, *border, cv2.BORDER_CONSTANT, value=(level,) * 3)


def changes(pixels, draws):
    """Returns the altered copies of a picture as JPEG files, keyed by how it was altered."""
    height, width = pixels.shape[:2]
    top, left = (int(draws.integers(0, side - int(0.9 * side) + 1)) for side in (height, width))
    cropped = pixels[top : top + int(0.9 * height), left : left + int(0.9 * width)]
    thick = round(draws.uniform(0.03, 0.1) * min(height, width))
    level = int(draws.choice([0, 255, draws.integers(256)]))
    square = ((max(height, width) - side) // 2 for side in (height, width))
    return {
        "re-encoded, quality 20 to 60": encoded(pixels, int(draws.integers(20, 61))),
        "shrunk to 0.25 to 0.6": encoded(resized(pixels, draws.uniform(0.25, 0.6))),
        "enlarged 1.3 to 2 times": encoded(resized(pixels, draws.uniform(1.3, 2))),
        "a border of 3 to 10 %": encoded(bordered(pixels, thick, thick, level)),
        "a border that makes it square": encoded(bordered(pixels, *square, 0)),
        "cropped to 0.9 of each side": encoded(cropped),
        "cropped like that, resized, with a border": encoded(
            bordered(resized(cropped, draws.uniform(0.4, 1.5)), 9, 9, 255), 70
        ),
    }


def pairs_of(groups):
    return {pair for group in groups for pair in combinations(group, 2)}


def hashed(python, files):
    names = "".join(f"{file}\n" for file in files)
    command = [python, "-c", HASHES]
    ended = subprocess.run(command, input=names, stdout=subprocess.PIPE, text=True, check=True)
    values = np.array([json.loads(line) for line in ended.stdout.splitlines()], np.uint64)
    return np.unpackbits(values[:, None].view(np.uint8), axis=1).astype(np.float32)


def distances(ones, others):
    return ones.sum(1)[:, None] + others.sum(1) - 2 * ones @ others.T


def draw(path, files, groups):
    rows = []
    for group in groups:
        shown = [Image.open(files[item]).convert("RGB").resize((96, 96)) for item in group[:12]]
        rows.append(np.concatenate([np.asarray(one) for one in shown], 1))
    width = max((row.shape[1] for row in rows), default=96)
    rows = [np.pad(row, ((0, 4), (0, width - row.shape[1]), (0, 0))) for row in rows]
    Image.fromarray(np.concatenate(rows or [np.zeros((1, 96, 3), np.uint8)])).save(path)


def main() -> None:
    parser = arguments_of(__doc__, turns=None, device=False)
    parser.add_argument("folders", nargs="+", type=Path, help="folders of photographs")
    parser.add_argument(
        "--count", type=int, default=500, help="photographs to change (default: 500)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed for the changes (default: 0)")
    parser.add_argument("--sheet", type=Path, help="PNG file for groups among the originals")
    arguments = parser.parse_args()
    files = sorted(file for folder in arguments.folders for file in folder.rglob("*.jpg"))
    draws = np.random.default_rng(arguments.seed)
    chosen = np.sort(draws.permutation(len(files))[: arguments.count]).tolist()
    thumbnails = list(in_order(lambda file: thumbnail(decode(file.read_bytes())), files))
    began = time.perf_counter()
    found = find_near(thumbnails)
    seconds = time.perf_counter() - began
    pairs = pairs_of(found)
    result = {
        "originals": len(files),
        "not compared": sum(one is None for one in thumbnails),
        "seconds of the comparison": round(seconds, 1),
        "pairs among the originals": len(pairs),
    }
    if arguments.sheet:
        draw(arguments.sheet, files, found)
    with tempfile.TemporaryDirectory() as folder:
        copies = {}
        for item in chosen:
            pixels = cv2.imread(str(files[item]))
            changed = changes(pixels, np.random.default_rng([arguments.seed, item]))
            for number, (name, file) in enumerate(changed.items()):
                path = Path(folder) / f"{number}-{item}.jpg"
                path.write_bytes(file.tobytes())
                copies.setdefault(name, []).append(path)
        python = peer_python()
        bits = hashed(python, files) if python else None
        if bits is not None:
            upper = distances(bits, bits)[np.triu_indices(len(files), 1)]
            strict = max(int(np.sort(upper)[len(pairs)]) - 1, 0)
            result["phash: bits for as few pairs"] = strict
            result[f"phash: pairs at {ADVISED} bits"] = int((upper <= ADVISED).sum())
        for name, paths in copies.items():
            more = list(in_order(lambda file: thumbnail(decode(file.read_bytes())), paths))
            both = pairs_of(find_near([*thumbnails, *more]))
            hits = [(item, len(files) + n) in both for n, item in enumerate(chosen)]
            result[name] = float(np.mean(hits))
            if bits is not None:
                apart = np.abs(bits[chosen] - hashed(python, paths)).sum(axis=1)
                result[f"{name}, phash"] = [
                    float((apart <= limit).mean()) for limit in (strict, ADVISED)
                ]
            print(name, result[name], result.get(f"{name}, phash"), file=sys.stderr)
    tell(result, arguments.json)


if __name__ == "__main__":
    main()
