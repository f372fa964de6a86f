"""Decides which values are black and white in deep pictures, and converts the pictures to 8 bits.

A file may state these values. If it does not, they are guessed for a whole set at once
(`guess_range`), so that the set's pictures stay comparable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np
from jaxtyping import UInt8

from jaxch5.config.ranges import Limits, Ranges
from jaxch5.config.settings import MAX_PIXELS
from jaxch5.data.depth import FLOATS, Deep, deep_of
from jaxch5.data.formats import format_of
from jaxch5.errors import DataError

# Bit depths of integers that cameras and scanners produce.
BITS = (8, 10, 12, 14, 16)
SIXTEEN_BITS = 65535.0
# Limits of a guess: the largest number of headers and of pictures that are read, and the number of
# values after which no further pictures are read.
HEADERS, PICTURES, PIXELS = 200, 48, 100_000_000
# How many pixels are converted to 8 bits at a time.
STRIP = 1_000_000
# How far beyond black and white values may be, as a share of the distance between the two: the
# first applies if nothing is known about the pictures, and the second if black and white were
# guessed from a set's pictures.
BEYOND_DEFAULT, BEYOND_GUESS = 0.01, 1.0
Read = Callable[[int], object]


def pixels_of(deep: Deep, ranges: Ranges) -> UInt8[np.ndarray, "height width 3"]:
    """Returns the picture in 8 bits, with black as 0 and white as 255; values beyond are clipped.

    Raises:
        DataError: Neither the file nor a setting states which values are black and white, and the
            picture does not fit those that are assumed.

    Example:
        >>> from jaxch5.config.ranges import parse_range
        >>> deep = Deep(np.array([[[0.0], [2047.5], [9999.0]]]), None)
        >>> pixels_of(deep, parse_range("4095"))[0, :, 0].tolist()
        [0, 128, 255]
    """
    low, high = _limits(deep, ranges)
    height, width, channels = deep.values.shape
    pixels = np.empty((height, width, 3), np.uint8)
    rows = max(1, STRIP // width)
    # Files that pack colours in 12 bits pack alpha in 12 bits too.
    opaque = high if deep.values[..., -1].max() <= high else full_scale(deep.values.dtype)[1]
    for top in range(0, height, rows):
        strip = deep.values[top : top + rows].astype(np.float64)
        share = (strip[..., : 3 if channels > 2 else 1] - low) / (high - low)
        share = np.clip(np.nan_to_num(share, nan=0.0, posinf=1.0, neginf=0.0), 0, 1)
        share = 1 - share if deep.inverted else share
        if channels in (2, 4):
            alpha = np.clip(strip[..., -1:] / opaque, 0, 1)
            share = share * (1 if deep.premultiplied else alpha) + (1 - alpha)
        pixels[top : top + rows] = np.clip(share * 255 + 0.5, 0, 255)
    return pixels


def full_scale(dtype: np.dtype) -> Limits:
    """Returns the values of black and white that a type has by default.

    Black is 0. White is 1 for floats, and for integers the type's maximum, but at most 65,535.
    """
    if dtype.kind == "f":
        return 0.0, 1.0
    # Integers are taken to be 16 bits deep even if they are stored in 32 bits.
    return 0.0, min(float(np.iinfo(dtype).max), SIXTEEN_BITS)


def guess_range(
    count: int, read: Read, peek: Read | None = None, max_pixels: int = MAX_PIXELS
) -> tuple[str, str]:
    """Guesses which values are black and white in a set's deep pictures, from some of the pictures.

    Args:
        count: Number of pictures in the set.
        read: Function that takes a picture's index and returns the content of its file; if it
            raises an error, the picture is ignored.
        peek: Function that takes a picture's index and returns at least the first 64 bytes of the
            content; None uses `read`.
        max_pixels: Largest number of pixels to decode; pictures with more are ignored.

    Returns:
        The range, as a text for `parse_range`, and a text that says how the range was found; "auto"
        and "" if nothing was guessed.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> file = io.BytesIO()
        >>> Image.fromarray(np.full((2, 3), 3900, np.uint16)).save(file, "PNG")
        >>> guess_range(10, lambda number: file.getvalue())[0]
        'auto integers 0,4095'
    """

    def content_of(read: Read, item: int) -> bytes:
        # A file that cannot be read is reported later, when it is needed.
        with suppress(Exception):
            if isinstance(content := read(item), bytes):
                return content
        return b""

    spread = _spread(range(count), HEADERS)
    suspects = [item for item in spread if _may_be_deep(content_of(peek or read, item))]
    seen: dict[str, list[Limits]] = {}
    largest: dict[str, float] = {}
    pixels = 0
    for item in _spread(suspects, PICTURES):
        deep = None
        with suppress(Exception):
            deep = deep_of(content_of(read, item), max_pixels)
        if deep is None or deep.said or deep.values.dtype == np.uint8:
            continue
        finite = _finite(deep)
        if not finite.size:
            continue
        kind = "floats" if deep.values.dtype.kind == "f" else "integers"
        seen.setdefault(kind, []).append((float(finite.min()), float(finite.max())))
        top = np.inf if kind == "floats" else float(np.iinfo(deep.values.dtype).max)
        largest[kind] = max(top, largest.get(kind, 0))
        pixels += finite.size
        if pixels > PIXELS:
            break
    ranges, words = [], []
    for kind in sorted(seen, reverse=True):
        low, high = min(low for low, _ in seen[kind]), max(high for _, high in seen[kind])
        black, white = _guess(kind, low, high, largest[kind])
        ranges.append(f"{kind} {black:.15g},{white:.15g}")
        words.append(
            f"{kind} from {black:,.15g} to {white:,.15g} are read as black to white, since values "
            f"from {low:,.6g} to {high:,.6g} were found in {len(seen[kind]):,} of the pictures "
            "with more than 8 bits"
        )
    return " ".join(["auto", *ranges]), "; ".join(words) + " (--data.range)" * bool(words)


def _guess(kind: str, low: float, high: float, largest: float) -> Limits:
    # Floats slightly beyond black and white, as a filter leaves them, do not mean another scale.
    slack = BEYOND_DEFAULT if kind == "floats" else 0.0
    if kind == "floats" and -1 - slack <= low < -slack and high <= 1 + slack:
        return -1.0, 1.0
    whites = FLOATS if kind == "floats" else tuple(2.0**bits - 1 for bits in BITS)
    white = next((white for white in whites if high <= white * (1 + slack)), None)
    white = white or 2.0 ** np.ceil(np.log2(high + 1)) - 1
    # Values well below zero mean signed numbers, as in computed tomography.
    black = 0.0 if low >= -0.01 * white else -(2.0 ** np.ceil(np.log2(-low)))
    return float(black), float(min(white, largest))


def _limits(deep: Deep, ranges: Ranges) -> Limits:
    dtype = deep.values.dtype
    if dtype == np.uint8:
        return full_scale(dtype)
    known = ranges.floats if dtype.kind == "f" else ranges.integers
    if deep.said and (ranges.file_first or known is None):
        return deep.said
    limits = known or full_scale(dtype)
    if known is None or ranges.file_first:
        _check_fit(_finite(deep), limits, guessed=known is not None)
    return limits


def _check_fit(finite: np.ndarray, limits: Limits, guessed: bool) -> None:
    """Refuses values that would come out white or black only because they have another scale."""
    if not finite.size:
        return
    low, high, (black, white) = float(finite.min()), float(finite.max()), sorted(limits)
    slack = (BEYOND_GUESS if guessed else BEYOND_DEFAULT) * (white - black)
    # Numbers that fit into 8 bits are more likely to have 8 bits than 16 or more.
    narrow = finite.dtype.kind in "iu" and not guessed and 0 < high <= 255
    if low < black - slack or high > white + slack or narrow:
        raise DataError(
            f"stored as {finite.dtype} from {low:g} to {high:g}, which does not fit {black:g} as "
            f"black and {white:g} as white; set both (--data.range BLACK,WHITE), or convert the "
            "picture to 8 bits"
        )


def _finite(deep: Deep) -> np.ndarray:
    """Returns the values of the colours, without those that are not numbers."""
    colours = deep.values[..., : 3 if deep.values.shape[2] > 2 else 1]
    return colours[np.isfinite(colours)] if colours.dtype.kind == "f" else colours


def _spread(items: Sequence[int], most: int) -> Sequence[int]:
    return items[:: max(1, -(-len(items) // most))]


def _may_be_deep(begin: bytes) -> bool:
    form = format_of(begin)
    return (form == "PNG" and begin[24:25] == b"\x10") or form in ("TIFF", "PPM")
