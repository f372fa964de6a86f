"""Reads packed pictures by index: they were presized once and are stored in a few large files.

A packed set is a folder, on this machine or at an address (`s3://...`), that contains

- `packed.json`: the set's `Index`: its classes, its presize, and each file's size and checksum;
- `labels.npy`: the class of each item, as an index into the classes, int32;
- `references.jsonl`: the name that each item had in its source, as a JSON string;
- `valid.npy`: whether each item is for validation (only if the source had a split of its own);
- `pictures-00000-of-00008.array_record` and so on: shards, which together hold a record for
  each item. The items are shuffled once, so that each shard is a random sample of the set. A record
  is the label, as four little-endian bytes, followed by a JPEG file of the presized picture.

The JPEG files have full-resolution colours (4:4:4) and, by default, quality 95. For 93 photographs
with a short side of 192 pixels, `benchmarks/pack.py` compares them with lossless files:

- JPEG took 36 KB per picture. The PSNR against the presized picture was 39.8 dB (median), and at
  least 36.5 dB;
- PNG took 89 KB, and four times as long to decode as JPEG;
- lossless WebP took 83 KB, and 2.7 times as long to decode as JPEG.
"""

from __future__ import annotations

import json
import os
import struct
import threading
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from jaxch5.data.decode import Reading
from jaxch5.data.source import FOLDER, Source
from jaxch5.data.sources.store import Store
from jaxch5.errors import DataError

INDEX = "packed.json"
LABELS, REFERENCES, VALID = "labels.npy", "references.jsonl", "valid.npy"
LABEL = struct.Struct("<i")


class Stored(BaseModel):
    """Describes a file of a packed set: its name, its size in bytes, and its checksum."""

    model_config = ConfigDict(frozen=True)

    file: str
    bytes: int
    sha256: str


class Shard(Stored):
    """Describes a shard: its number of records, and, for pictures that were left out, the reasons.

    The key of a reason is the picture's index among those that were planned for the shard.
    """

    count: int
    skipped: dict[int, str] = {}


class Index(BaseModel):
    """Holds the index of a packed set; in an unfinished set, what is not known yet is None."""

    model_config = ConfigDict(frozen=True)

    format: Literal["jaxch5 packed pictures"] = "jaxch5 packed pictures"
    version: Literal[1] = 1
    # Digest of the names, labels, split and settings; packing resumes an unfinished set only if
    # this digest is still the same.
    plan: str
    presize: int
    quality: int
    classes: tuple[str, ...]
    # Value range of the pictures with more than 8 bits; it also applies to pictures that a network
    # trained on this set classifies later.
    range: str = "auto"
    # Whether long pictures were cut, which packing does only for the method "crop".
    cut: bool = True
    shards: tuple[Shard | None, ...]
    labels: Stored | None = None
    references: Stored | None = None
    valid: Stored | None = None

    @property
    def finished(self) -> bool:
        return self.labels is not None and self.references is not None and all(self.shards)


class Lazy(Sequence[Any]):
    """Acts as a sequence whose entries are made only when they are accessed."""

    def __init__(self, length: int, entry: Callable[[int], Any]) -> None:
        self._length = length
        self._entry = entry

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        place = range(self._length)[index]
        return [*map(self._entry, place)] if isinstance(place, range) else self._entry(place)


def read_index(store: Store) -> Index | None:
    """Returns the index of a packed set; None if the set has no index.

    Raises:
        DataError: The index cannot be read, or is not valid.
    """
    content = store.read(INDEX)
    if content is None:
        return None
    try:
        return Index.model_validate(json.loads(content))
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except (ValueError, RecursionError) as error:
        reason = str(error)
    raise DataError(f"{store.where(INDEX)}: is not an index that this version reads: {reason}")


def from_packed(path: str | os.PathLike[str], shards: slice = slice(None)) -> Source:
    """Reads pictures that `jaxch5 pack` has packed.

    The source needs 4 bytes of memory for the label of each item in the chosen shards (5 if the set
    has its own split) and, whichever shards are chosen, 8 bytes for the position of each name in
    the set. If the set is at an address, each of its files is fetched once, when it is needed, into
    the user's cache folder, which must have room for it.

    Args:
        path: Folder of the set, or its address, such as `s3://bucket/flowers`.
        shards: Which shards to read; `slice(k, None, n)` is for process k of n, counted from 0.

    Raises:
        DataError: The set is missing, unfinished, damaged or unreachable, or no shard is chosen.

    Example:
        >>> import io, tempfile
        >>> from rich.console import Console
        >>> from jaxch5.data.packing import pack
        >>> from jaxch5.data.source import from_arrays
        >>> source = from_arrays(np.zeros((4, 8, 8), np.uint8), np.array([0, 1, 0, 1]), ["a", "b"])
        >>> folder = tempfile.mkdtemp()
        >>> _ = pack(source, folder, size=8, console=Console(file=io.StringIO()))
        >>> packed = from_packed(folder)
        >>> len(packed), packed.classes, packed.presized
        (4, ('a', 'b'), 8)
    """
    store = Store(path)
    index = read_index(store)
    if index is None:
        raise DataError(
            f"{store.name}: holds no packed pictures (there is no {INDEX}); "
            f"jaxch5 pack SOURCE {store.name} makes them"
        )
    if not index.finished:
        raise DataError(
            f"{store.name}: is only partly packed; run the same jaxch5 pack command again to resume"
        )
    assert index.labels is not None
    assert index.references is not None
    every = [shard for shard in index.shards if shard is not None]
    begins = list(accumulate((shard.count for shard in every), initial=0))
    chosen = range(len(every))[shards]
    if not chosen:
        raise DataError(f"{store.name}: has {len(every)} shards, but none of them is in {shards}")
    ends = list(accumulate(every[number].count for number in chosen))
    readers = [_Reader(store, every[number]) for number in chosen]

    def load(stored: Stored) -> np.ndarray:
        rows = np.load(_whole(store, stored), allow_pickle=False)
        if len(chosen) == len(every):
            return rows
        return np.concatenate([rows[begins[n] : begins[n + 1]] for n in chosen])

    def place(item: int) -> tuple[int, int]:
        """Returns which of the chosen shards an item is in, and its index there."""
        number = bisect_right(ends, item)
        return number, item - (ends[number - 1] if number else 0)

    lines = np.memmap(_whole(store, index.references), np.uint8, "r")
    breaks = np.flatnonzero(lines == ord("\n"))

    def reference(item: int) -> str:
        number, position = place(item)
        line = begins[chosen[number]] + position
        return json.loads(lines[breaks[line - 1] + 1 if line else 0 : breaks[line]].tobytes())

    labels = load(index.labels)

    def read(item: int) -> bytes:
        number, position = place(int(item))
        record = readers[number].record(position, reference(int(item)))
        if LABEL.unpack_from(record)[0] != labels[item]:
            reason = f"its label differs from that in {LABELS}"
            raise readers[number].damaged(reference(int(item)), reason)
        return record[LABEL.size :]

    columns: dict[str, Sequence[str | bool]] = {}
    if index.valid is not None:
        valid = load(index.valid)
        columns[FOLDER] = Lazy(len(valid), lambda item: "valid" if valid[item] else "train")
    return Source(
        classes=index.classes,
        labels=labels,
        references=Lazy(len(labels), reference),
        read=read,
        columns=columns,
        in_parts=index.valid is not None,
        presized=index.presize,
        cut=index.cut,
        reading=Reading(index.range),
        sharded=True,
    )


class _Reader:
    """Reads the records of one shard, which is fetched and opened when a record is first read."""

    def __init__(self, store: Store, shard: Shard) -> None:
        self._store = store
        self._shard = shard
        self._lock = threading.Lock()
        self._records: Any = None

    def record(self, position: int, reference: str) -> bytes:
        with self._lock:
            if self._records is None:
                self._records = self._open()
        try:
            return self._records[position]
        except Exception as error:
            # The library sometimes raises a RuntimeError and sometimes an IndexError.
            raise self.damaged(reference, str(error).partition("(")[0].strip()) from None

    def damaged(self, reference: str, reason: str) -> DataError:
        return _damaged(self._store, self._shard, f"{reference} cannot be read: {reason}")

    def _open(self) -> Any:
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        # If the length is given, the library does not open the file just to count its records.
        file = _whole(self._store, self._shard)
        return ArrayRecordDataSource(f"{file}[0:{self._shard.count}]")


def _whole(store: Store, stored: Stored) -> str:
    """Returns the local path of one of the set's files, after checking the file's size."""
    file = store.fetch(stored.file, stored.sha256)
    try:
        size = file.stat().st_size
    except FileNotFoundError:
        raise DataError(f"{file}: is missing; run jaxch5 pack again to rewrite it") from None
    if size != stored.bytes:
        raise _damaged(store, stored, f"has {size:,} bytes, not {stored.bytes:,}")
    return str(file)


def _damaged(store: Store, stored: Stored, reason: str) -> DataError:
    file = store.fetch(stored.file, stored.sha256)
    way = "it is fetched again" if store.remote else "run jaxch5 pack again to rewrite it"
    return DataError(f"{file}: is damaged ({reason}); remove it, and {way}")
