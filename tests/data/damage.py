"""Damages pictures in many ways and reads them; `test_image.py` runs it in a separate process.

    python damage.py SOURCES COUNT SEED NOTE

SOURCES is a folder of intact pictures. NOTE is a file to which each damaged picture is written
before it is read, so that the picture is known if this process dies. Standard output is one JSON
document.
"""

import faulthandler
import json
import random
import resource
import struct
import sys
import time
import warnings
import zlib
from pathlib import Path

from jaxch5.data.image import decode, presize
from jaxch5.errors import DataError

# Limits of integer types, at which the handling of counts and sizes tends to fail.
EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def flip(data: bytearray, rng: random.Random, others: list[bytes]) -> bytearray:
    """Flips single bits anywhere."""
    for _ in range(rng.choice((1, 1, 4, 32))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def cut(data: bytearray, rng: random.Random, others: list[bytes]) -> bytearray:
    """Removes the end, or a piece from within."""
    start = rng.randrange(len(data))
    if rng.random() < 0.5:
        return data[:start]
    del data[start : start + rng.randrange(1, 200)]
    return data


def splice(data: bytearray, rng: random.Random, others: list[bytes]) -> bytearray:
    """Inserts a piece of another picture, or overwrites a part with it."""
    other = rng.choice(others)
    start, length = rng.randrange(len(other)), rng.randrange(1, 400)
    place = rng.randrange(len(data))
    end = place + rng.choice((0, length))
    data[place:end] = other[start : start + length]
    return data


def edit_header(data: bytearray, rng: random.Random, others: list[bytes]) -> bytearray:
    """Overwrites numbers of one, two or four bytes near the start."""
    for _ in range(rng.choice((1, 2, 4))):
        form = rng.choice((">B", ">H", "<H", ">I", "<I"))
        place = rng.randrange(max(1, min(len(data), 700) - 4))
        value = rng.choice(EDGES) & (256 ** struct.calcsize(form) - 1)
        data[place : place + struct.calcsize(form)] = struct.pack(form, value)
    return data


def edit_parts(data: bytearray, rng: random.Random, others: list[bytes]) -> bytearray:
    """Edits a PNG's chunks or the sizes in a JPEG's frame, to test code behind the first checks.

    The checksums of the PNG's chunks are correct afterwards.
    """
    if data[:4] == b"\x89PNG" and len(data) > 20:
        chunks, place = [], 8
        while place + 12 <= len(data):
            (length,) = struct.unpack_from(">I", data, place)
            kind = bytes(data[place + 4 : place + 8])
            chunks.append((kind, bytearray(data[place + 8 : place + 8 + length])))
            place += 12 + length
        kind, body = rng.choice(chunks)
        if body:
            edit_header(body, rng, others)
        if rng.random() < 0.3:
            chunks.insert(rng.randrange(len(chunks)), rng.choice(chunks))
        made = bytearray(data[:8])
        for kind, body in chunks:
            made += struct.pack(">I", len(body)) + kind + body
            made += struct.pack(">I", zlib.crc32(kind + body))
        return made
    for marker in (b"\xff\xc0", b"\xff\xc2"):
        place = data.find(marker)
        if 0 <= place < len(data) - 20:
            size = rng.choice((1, 7, 8, 9, 255, 4000, 9000, 16383, 65500))
            struct.pack_into(">H", data, place + rng.choice((5, 7)), size)
            if rng.random() < 0.5:
                data[place + rng.randrange(4, 20)] = rng.randrange(256)
            return data
    return edit_header(data, rng, others)


WAYS = (flip, cut, splice, edit_header, edit_parts)


def main() -> None:
    sources, count, seed, note = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    warnings.simplefilter("ignore")
    whole = [file.read_bytes() for file in sorted(Path(sources).iterdir())]
    for data in whole:
        presize(decode(data), 40)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = slowest = 0
    with note.open("wb") as notes:
        faulthandler.enable()
        for number in range(count):
            rng = random.Random(f"{seed} {number}")
            data = bytearray(rng.choice(whole))
            for _ in range(rng.choice((1, 1, 2))):
                data = rng.choice(WAYS)(data, rng, whole) or bytearray(b"\0")
            notes.seek(0)
            notes.write(struct.pack(">I", len(data)) + data)
            notes.flush()
            begin = time.perf_counter()
            try:
                presize(decode(bytes(data), "damaged", rng.choice((None, 40))), 40)
            except DataError:
                refused += 1
            slowest = max(slowest, time.perf_counter() - begin)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    megabytes = (after - before) / (1024 if sys.platform != "darwin" else 1024**2)
    print(json.dumps({"refused": refused, "slowest": slowest, "megabytes": megabytes}))


if __name__ == "__main__":
    main()
