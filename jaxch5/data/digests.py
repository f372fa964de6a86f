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
# Number of files that a thread looks at, one after the other, before it takes up others.
CHUNK = 250
# The digest of a file of up to 64 KB covers all of it, and that of a larger one eight blocks, from
# the first byte to the last.
BLOCKS, BLOCK = 8, 8192
# In these formats, which need not be compressed, large files may differ only between such
# blocks, so all of a file is read, or none of it if that would take long.
PLAIN, PLAIN_MAX = ("BMP", "PPM", "TIFF"), 2**22


def digests_of(source: Source, items: Int[np.ndarray, "items"]) -> Int[np.ndarray, "2 items"]:
    """Returns the sizes of items' files, in bytes, and the digests of the files' contents.

    Both are -1 for an item that is not a file, or whose file cannot be read. The digest alone is -1
    for a file of over 4 MB whose format need not be compressed.

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

    The digest has 63 bits, so that a million files with different content get different ones.
    """
    try:
        with open(file, "rb", buffering=0) as opened:
            size = opened.seek(0, os.SEEK_END)
            opened.seek(0)
            parts = [opened.read(BLOCKS * BLOCK)]
            if size > BLOCKS * BLOCK:
                if format_of(parts[0]) not in PLAIN:
                    parts[0] = parts[0][:BLOCK]
                    for place in np.linspace(0, size - BLOCK, BLOCKS, dtype=int)[1:].tolist():
                        opened.seek(place)
                        parts.append(opened.read(BLOCK))
                elif size <= PLAIN_MAX:
                    parts.append(opened.read())
                else:
                    return size, UNKNOWN
    except OSError:
        return UNKNOWN, UNKNOWN
    digest = blake2b(b"".join(parts), digest_size=8, salt=size.to_bytes(8)).digest()
    return size, int.from_bytes(digest) >> 1
