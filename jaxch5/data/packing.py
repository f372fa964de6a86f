"""Packs a set: presizes its pictures once and writes them into a few large files (see `packed`)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import simplejpeg
from jaxtyping import Bool, Float32, Int, UInt8
from rich.console import Console

from jaxch5.data.canvases import check_presize
from jaxch5.data.image import shrink
from jaxch5.data.parallel import in_order
from jaxch5.data.picture import read_picture
from jaxch5.data.source import (
    Source,
    canvas_of,
    item_name,
    select,
    with_range,
    without_bad,
)
from jaxch5.data.sources.packed import (
    INDEX,
    LABEL,
    LABELS,
    REFERENCES,
    VALID,
    Index,
    Shard,
    Stored,
    read_index,
)
from jaxch5.data.sources.store import Store
from jaxch5.errors import DataError
from jaxch5.util.files import sha256_of
from jaxch5.util.seeds import check_seed
from jaxch5.util.text import progress_bar

QUALITY = 95
# At a short side of 192 pixels, a shard takes some 300 MB, and a million pictures fill 123 shards,
# each of which stays open once it has been read from.
SHARD_SIZE = 8192


def pack(
    source: Source,
    out: str | os.PathLike[str],
    size: int,
    in_valid: Bool[np.ndarray, "items"] | None = None,
    *,
    quality: int = QUALITY,
    shard_size: int = SHARD_SIZE,
    seed: int = 0,
    skip_bad: bool = False,
    method: str = "crop",
    console: Console | None = None,
) -> Index:
    """Presizes all pictures and writes them into shards, from which `from_packed` reads them.

    If packing is interrupted, calling the function again resumes with the files that are missing.
    Pictures that were left out then are tried again.

    Args:
        source: Labelled pictures.
        out: Folder or address to write to.
        size: Short side of the presized pictures, in pixels.
        in_valid: Whether each picture is for validation; None leaves the choice to a later split.
        quality: Quality of the JPEG files, 1 to 100.
        shard_size: Number of pictures in a shard.
        seed: Seed for the pictures' order.
        skip_bad: Whether pictures that cannot be read are left out; if not, the first such picture
            ends the packing with an error.
        method: How the network will frame the pictures (`Framing`). For "crop", long pictures are
            cropped as `presize` crops them. For other methods, pictures are not cropped, and can be
            used with every method.
        console: Where the progress bar is drawn; None means standard error.

    Returns:
        The index of what was written.

    Raises:
        DataError: A picture cannot be read, a class is left without pictures, or `out` cannot be
            written to or holds another set.
        ConfigError: The seed is not a whole number from 0 to 2**32 - 1; or the source is itself
            packed, and its pictures are smaller than `size` or were cropped although `method` does
            not allow that.
    """
    source = with_range(source)
    check_presize(source, size, method)
    store = Store(out)
    order = np.random.Generator(np.random.PCG64(check_seed(seed))).permutation(len(source))
    settings: list[int | str] = [size, quality, shard_size, seed]
    cut = method == "crop"
    # Settings that earlier versions did not have are left out if they have their default values.
    # That way, packing can be resumed if an earlier version began it.
    settings += [source.reading.range] if source.reading.range != "auto" else []
    settings += [] if cut else ["whole"]
    planned = np.split(order, range(shard_size, len(order), shard_size))
    empty = Index(
        plan=_digest(source, in_valid, settings),
        presize=size,
        quality=quality,
        classes=source.classes,
        range=source.reading.range,
        cut=cut,
        shards=(None,) * len(planned),
    )
    index = read_index(store) or empty
    if index.plan != empty.plan:
        raise DataError(
            f"{store.name}: holds other pictures, or the same ones packed differently; remove it, "
            "or name another folder"
        )
    shards = [shard if _is_there(store, shard) else None for shard in index.shards]

    def record(item: int) -> bytes | DataError:
        try:
            if cut:
                picture = without_filling(*canvas_of(source, item, size))
            else:
                name, reading = item_name(source, item), source.reading
                picture = shrink(read_picture(source.read(item), name, size, reading), size)
        except DataError as error:
            return error
        content = simplejpeg.encode_jpeg(picture, quality, "RGB", "444")
        return LABEL.pack(source.labels[item]) + content

    # Pictures that were left out earlier may have been fixed, or may no longer be left out.
    for number, shard in enumerate(shards):
        for place in shard.skipped if shard else ():
            content = record(int(planned[number][place]))
            if isinstance(content, bytes):
                shards[number] = None
                break
            if not skip_bad:
                raise without_bad(content)
    about_items = (index.labels, index.references, *([] if in_valid is None else [index.valid]))
    if all(shards) and all(_is_there(store, stored) for stored in about_items):
        return index

    with progress_bar(console) as progress:
        task = progress.add_task("packing pictures", total=len(source))
        for number, items in enumerate(planned):
            if shards[number] is not None:
                progress.advance(task, len(items))
                continue
            name = f"pictures-{number:05d}-of-{len(planned):05d}.array_record"
            shards[number] = _write_shard(
                store, name, items, record, skip_bad, lambda: progress.advance(task)
            )
            store.write(INDEX, _json(empty.model_copy(update={"shards": tuple(shards)})))

    kept = np.concatenate(
        [
            np.delete(items, list(shard.skipped))
            for items, shard in zip(planned, shards, strict=True)
            if shard is not None
        ]
    )
    files = _write_items(store, select(source, kept), kept, in_valid)
    index = empty.model_copy(update={"shards": tuple(shards), **files})
    store.write(INDEX, _json(index))
    return index


def without_filling(
    canvas: UInt8[np.ndarray, "size canvas_width 3"], frame: Float32[np.ndarray, "3 3"]
) -> UInt8[np.ndarray, "height width 3"]:
    """Returns a canvas's picture, upright and without the edge that was repeated beside it.

    From this picture, `presize` makes the same canvas again.
    """
    upright = frame[0, 0] == 0
    picture = canvas[:, : int(frame[0, :2].sum())]
    return np.ascontiguousarray(np.rot90(picture, -1) if upright else picture)


def _write_shard(
    store: Store,
    name: str,
    items: Int[np.ndarray, "planned"],
    record: Callable[[int], bytes | DataError],
    skip_bad: bool,
    advance: Callable[[], object],
) -> Shard:
    from array_record.python.array_record_module import ArrayRecordWriter

    skipped: dict[int, str] = {}
    with store.making(name) as file:
        # A group has one record, so that each record can be read alone. The records are not
        # compressed, because JPEG files hardly become smaller.
        try:
            writer = ArrayRecordWriter(str(file), "group_size:1,uncompressed")
            for place, content in enumerate(in_order(record, map(int, items))):
                if isinstance(content, bytes):
                    writer.write(content)
                elif skip_bad:
                    skipped[place] = str(content)
                else:
                    raise without_bad(content)
                advance()
            writer.close()
        except RuntimeError as error:
            # The library raises this if the disk is full.
            raise DataError(f"{file}: cannot be written: {str(error).splitlines()[0]}") from None
        stored = _stored(name, file)
    return Shard(**stored.model_dump(), count=len(items) - len(skipped), skipped=skipped)


def _write_items(
    store: Store,
    source: Source,
    items: Int[np.ndarray, "kept"],
    in_valid: Bool[np.ndarray, "items"] | None,
) -> dict[str, Stored]:
    """Writes what is known about the items apart from their pictures."""
    files = {}
    with store.making(LABELS) as file:
        _save(file, source.labels)
        files["labels"] = _stored(LABELS, file)
    with store.making(REFERENCES) as file:
        with file.open("w", encoding="ascii") as opened:
            opened.writelines(json.dumps(reference) + "\n" for reference in source.references)
        files["references"] = _stored(REFERENCES, file)
    if in_valid is not None:
        with store.making(VALID) as file:
            _save(file, in_valid[items])
            files["valid"] = _stored(VALID, file)
    return files


def _save(file: Path, rows: np.ndarray) -> None:
    # np.save may append .npy to a path, but not to the name of an open file.
    with file.open("wb") as opened:
        np.save(opened, rows)


def _stored(name: str, file: Path) -> Stored:
    return Stored(file=name, bytes=file.stat().st_size, sha256=sha256_of(file))


def _is_there(store: Store, stored: Stored | None) -> bool:
    return stored is not None and store.size(stored.file) == stored.bytes


def _json(index: Index) -> bytes:
    # The json module escapes names that are not UTF-8, whereas pydantic would refuse such names.
    return json.dumps(index.model_dump(exclude_none=True), indent=1).encode()


def _digest(
    source: Source, in_valid: Bool[np.ndarray, "items"] | None, settings: list[int | str]
) -> str:
    """Returns a digest of `settings`, and of each picture's name, class and part."""
    digest = hashlib.sha256(json.dumps([source.classes, settings]).encode())
    digest.update(np.ascontiguousarray(source.labels).data)
    for reference in source.references:
        digest.update(json.dumps(reference).encode())
    if in_valid is not None:
        digest.update(np.packbits(in_valid).data)
    return digest.hexdigest()
