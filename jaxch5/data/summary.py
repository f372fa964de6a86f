"""Describes the data: what goes into each stage of the pipeline and what comes out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxch5.augmentation.policy import Policy, augment
from jaxch5.batch import Batch
from jaxch5.data.decode import Header, look_at
from jaxch5.data.image import ASPECT, canvas_shape, presize
from jaxch5.data.picture import read_stored
from jaxch5.data.pipeline import Loader
from jaxch5.data.profiles import load_profile, profile_name
from jaxch5.data.sampler import imbalance, is_unequal
from jaxch5.data.source import Source, item_name, remarks, without_bad
from jaxch5.errors import DataError
from jaxch5.framing import Size, height_and_width
from jaxch5.util.address import is_address
from jaxch5.util.seeds import check_seed
from jaxch5.util.text import counted, percent, printable

# Number of pictures whose sizes are read; a sample of this size is enough for a set of a million.
SIZES_READ = 200
CLASSES_SHOWN = 40
PROFILES_SHOWN = 3


def summarize(
    training: Loader, validation: Loader, policy: Policy | None, size: Size, cache: str
) -> Iterator[str]:
    """Yields lines about the set, and about one picture and one batch on their way to the network.

    Args:
        training, validation: Loader of each part's batches.
        policy: What `aug_transforms` returns; None for no augmentation.
        size: Side of the network's input, or its height and width, in pixels.
        cache: Description of where presized pictures are kept.

    Raises:
        DataError: A stage fails; the message names the stage and the file.
    """
    source, side = training.canvases.source, training.canvases.size
    method = training.canvases.framing.method
    train, valid = (np.asarray(part.items) for part in (training, validation))
    yield f"source    {counted(len(source), 'picture')} of {len(source.classes)} classes"
    for remark in remarks(source):
        yield f"source    {remark}"
    yield f"split     {len(train):,} for training, {len(valid):,} for validation"
    yield from _classes(source, train, valid)
    with stage("sizes"):
        yield from _sizes(source, side, method, size, policy is not None)
    bytes_kept = len(source) * int(np.prod(canvas_shape(side, method)))
    yield f"cache     {cache}; {bytes_kept / 1e6:,.1f} MB of canvases"

    item = int(train[0])
    yield f"item      {source.references[item]}"
    with stage("read"):
        content = source.read(item)
    if isinstance(content, bytes):
        yield f"read      {len(content):,} bytes"
    with stage("decode"):
        picture, profile = read_stored(content, item_name(source, item), reading=source.reading)
    if isinstance(content, bytes):
        header = look_at(content)
        yield f"decode    {header.format}, mode {header.mode}, to {_shape(picture)}"
    else:
        yield f"read      {_shape(picture)}"
    with stage("presize"):
        canvas, frame = presize(picture, side, profile, method)
    corner = frame @ np.array([1, 1, 1], np.float32) / frame[2, 2]
    yield (
        f"presize   canvas {_shape(canvas)}; the picture's lower right corner is at x "
        f"{corner[0]:g}, y {corner[1]:g}"
    )
    yield f"label     {source.labels[item]} ({source.classes[source.labels[item]]})"
    with stage("batch"):
        batch = first_pictures(training, training.batch_size)
    for name in ("image", "frame", "label", "index", "mask"):
        yield f"batch     {name} {_shape(getattr(batch, name))}"
    with stage("augment"):
        drawn = draw(policy, batch, size)
    low, high = float(drawn.min()), float(drawn.max())
    yield f"augment   {_shape(drawn)}, values {low:.3f} to {high:.3f}"


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Adds the name of a stage to a `DataError` that is raised within it."""
    try:
        yield
    except DataError as error:
        raise DataError(f"stage {name}: {error}") from None


def first_pictures(loader: Loader, count: int) -> Batch:
    """Reads the first `count` pictures of the first epoch, or all if an epoch has fewer."""
    batches = list(islice(loader, -(-count // loader.batch_size)))
    return jax.tree.map(lambda *rows: np.concatenate(rows)[:count], *batches)


def draw(
    policy: Policy | None, batch: Batch, size: Size, seed: int = 0
) -> Float[np.ndarray, "batch height width 3"]:
    """Returns a batch's pictures as the network would get them, but not normalized."""
    key = jax.random.key(check_seed(seed))
    drawn = jax.jit(augment, static_argnums=(0, 3))(policy, batch, key, size)
    return np.asarray(jnp.clip(drawn, 0, 1))


def _classes(source: Source, train: np.ndarray, valid: np.ndarray) -> Iterator[str]:
    in_train, in_valid = (
        np.bincount(source.labels[items], minlength=len(source.classes)) for items in (train, valid)
    )
    shown = [printable(name) for name in source.classes[:CLASSES_SHOWN]]
    width = max(map(len, shown))
    for number, name in enumerate(shown):
        counts = f"{in_train[number]:>7,} training  {in_valid[number]:>7,} validation"
        yield f"class     {name:<{width}}  {counts}"
    if len(source.classes) > CLASSES_SHOWN:
        yield f"class     and {len(source.classes) - CLASSES_SHOWN:,} more"
    labels, count = source.labels[train], len(source.classes)
    if is_unequal(labels, count):
        most, least = (source.classes[int(find(in_train))] for find in (np.argmax, np.argmin))
        yield (
            f"warning   {most} has {imbalance(labels, count):.1f} times the training pictures of "
            f"{least}: judge the rare class by its recall, not by the accuracy; "
            "--data.sampling or --fit.class-weights (balanced or sqrt) makes it count more"
        )
    if unknown := [name for name, count in zip(source.classes, in_valid, strict=True) if not count]:
        others = f" and {counted(len(unknown) - 1, 'other')}" if len(unknown) > 1 else ""
        about = "it" if len(unknown) == 1 else "them"
        yield (
            f"warning   no validation picture of {unknown[0]}{others}: the accuracy says nothing "
            f"about {about}"
        )


def sizes_of(source: Source) -> Int[np.ndarray, "some 2"]:
    """Returns the widths and heights of the local, readable pictures in a sample of the source."""
    sizes = []
    for item in _looked_at(source):
        if source.file is None or not is_address(source.references[item]):
            with suppress(Exception):
                sizes.append(_header(source, item, source.read(item)).size)
    return np.array(sizes, int).reshape(-1, 2)


def _looked_at(source: Source) -> list[int]:
    places = np.linspace(0, len(source) - 1, min(SIZES_READ, len(source)))
    return np.unique(places.astype(int)).tolist()


def _header(source: Source, item: int, content: Any) -> Header:
    if isinstance(content, bytes):
        return look_at(content)
    pixels, profile = read_stored(content, source.references[item], reading=source.reading)
    return Header("", "", pixels.shape[1::-1], profile)


def unseen(
    sizes: Int[np.ndarray, "pictures 2"], size: Size, augmented: bool
) -> tuple[float, float]:
    """Returns the shares of the pictures' pixels that training and validation never see.

    Args:
        sizes: Width and height of each picture, in pixels.
        size: Side of the network's input, or its height and width, in pixels.
        augmented: Whether augmentation moves the crop in training.

    Example:
        >>> shares = unseen(np.array([[200, 100], [100, 100]]), 32, augmented=True)
        >>> [round(share, 3) for share in shares]
        [0.167, 0.333]
    """
    if not len(sizes):
        return 0.0, 0.0
    shape = np.array(height_and_width(size)[::-1])
    kept = np.minimum(sizes, ASPECT * sizes[:, ::-1])
    middle = np.min(kept / shape, axis=1, keepdims=True) * shape
    whole, *seen = (part.prod(axis=1).sum() for part in (sizes, kept, middle))
    training, validation = (float(1 - pixels / whole) for pixels in seen)
    return training if augmented else validation, validation


def unseen_text(training: float, validation: float) -> str:
    """Says what shares of the pixels are never seen; returns an empty string if all are seen."""
    if round(validation, 4) == 0:
        return ""
    unseen = percent(training), percent(validation)
    return "training never sees {} of the pixels, validation {}".format(*unseen)


def _sizes(source: Source, presize: int, method: str, size: Size, augmented: bool) -> Iterator[str]:
    headers = []
    for item in _looked_at(source):
        content = source.read(item)
        try:
            headers.append(_header(source, item, content))
        except Exception as error:
            reason = printable(str(error)) or "not a picture in a known format"
            line = f"{source.references[item]}: cannot be opened ({reason})"
            raise without_bad(
                DataError(f"{line}; run jaxch5 verify to list all such files")
            ) from None
    sizes = np.array([header.size for header in headers])
    profiles = [header.profile for header in headers if header.format]
    short = np.min(sizes, axis=1)
    aspect = np.max(sizes, axis=1) / short
    yield (
        f"sizes     short side {short.min()} to {short.max()} pixels, median "
        f"{np.median(short):g}; aspect ratio up to {aspect.max():.2f} "
        f"({counted(len(sizes), 'picture')} looked at)"
    )
    lost = (0.0, 0.0) if method != "crop" else unseen(sizes, size, augmented)
    said = unseen_text(*lost)
    said += "; --data.method squish or pad keeps them" if said else "every pixel is seen"
    yield f"unseen    {method}: {said}"
    if method == "pad":
        short = np.max(sizes, axis=1)
    if smaller := float(np.mean(short < presize)):
        share = percent(smaller, 0)
        yield f"warning   {share} are smaller than presize {presize} and will be enlarged"
    if profiles:
        yield f"profiles  {_profiles(profiles)} ({counted(len(profiles), 'picture')} looked at)"


def _profiles(found: list[bytes | None]) -> str:
    """Says how many pictures have each colour profile, and how many are converted to sRGB."""
    names = Counter("none" if content is None else profile_name(content) for content in found)
    words = ", ".join(f"{count:,} {name}" for name, count in names.most_common(PROFILES_SHOWN))
    if len(names) > PROFILES_SHOWN:
        words += f" and {counted(len(names) - PROFILES_SHOWN, 'other')}"
    converted = sum(content is not None and load_profile(content) is not None for content in found)
    return words + (f"; {converted:,} converted to sRGB" if converted else "")


def _shape(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"
