"""Computes digests of pictures' files, by which a run's pictures are recognized later."""

from __future__ import annotations

import os
from hashlib import blake2b
from itertools import chain
from pathlib import Path

import numpy as np
from jaxtyping import Int

from jaxch5.data.formats import format_of
from jaxch5.data.parallel import in_order
from jaxch5.data.source import Source

# Stands for a size or a digest that is not known, such as that of an item that is not a file.
UNKNOWN = -1
# Number of files that are handed to a thread at a time.
CHUNK = 250
# The digest of a file of up to 1 MB covers all of it. That of a larger file covers its first MB and
# blocks of the rest, up to the last byte.
WHOLE, BLOCKS, BLOCK = 2**20, 7, 8192
# In these formats, which need not be compressed, large files that differ in a detail may agree in
# all such blocks.
PLAIN = ("BMP", "PPM", "TIFF")


def digests_of(source: Source, items: Int[np.ndarray, "items"]) -> Int[np.ndarray, "2 items"]:
    """Returns the sizes of items' files, in bytes, and the digests of the files' contents.

    Both are -1 for an item that is not a file, or whose file cannot be read. The digest alone is -1
    for a file of over 1 MB whose format need not be compressed. Other files of over 1 MB have the
    same digest if they have the same size and differ only between the blocks that are read. Few
    edits have that effect, because an edit also changes the compressed data that follow it.

    Example:
        >>> from jaxch5.data.source import digits
        >>> digests_of(digits(), np.arange(3)).tolist()
        [[-1, -1, -1], [-1, -1, -1]]
    """
    if source.file is None:
        return np.full((2, len(items)), UNKNOWN)
    file = source.file
    chunks = (items[start : start + CHUNK].tolist() for start in range(0, len(items), CHUNK))
    seen = in_order(lambda chunk: [digest_of(file(item)) for item in chunk], chunks)
    return np.array([*chain.from_iterable(seen)], int).reshape(-1, 2).T


def digest_of(file: Path) -> tuple[int, int]:
    """Returns a file's size, in bytes, and a digest of its content, or -1; see `digests_of`.

    The digest has 63 bits, so even among a million different files, no two are likely to agree.
    """
    try:
        with open(file, "rb", buffering=0) as opened:
            size = opened.seek(0, os.SEEK_END)
            opened.seek(0)
            parts = [opened.read(WHOLE)]
            if size > WHOLE:
                if format_of(parts[0]) in PLAIN:
                    return size, UNKNOWN
                for place in np.linspace(WHOLE, size, BLOCKS + 1, dtype=int)[1:].tolist():
                    opened.seek(place - BLOCK)
                    parts.append(opened.read(BLOCK))
    except OSError:
        return UNKNOWN, UNKNOWN
    digest = blake2b(b"".join(parts), digest_size=8, salt=size.to_bytes(8)).digest()
    return size, int.from_bytes(digest) >> 1
