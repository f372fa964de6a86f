"""Finds which values are black and white in deep pictures, and converts the pictures to 8 bits.

Deep pictures have more than 8 bits per channel. A file may state which values are black and white.
If it does not, these values are guessed for a whole set at once (`guess_range`), so that the set's
pictures stay comparable.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Num, UInt8
from PIL import Image, TiffImagePlugin

from jaxch5.config.ranges import Limits, Ranges
from jaxch5.config.settings import MAX_PIXELS
from jaxch5.data.formats import SUFFIXES_OF, check_size, format_of, png_pixels, read_header

# File extensions of pictures that may be deep, except those of JPEG 2000 and PGM, which Pillow
# handles.
SUFFIXES = (*SUFFIXES_OF["PNG"], *SUFFIXES_OF["TIFF"], ".pfm")
# Bit depths of integers, and white levels of floats, that cameras and scanners produce.
BITS, FLOATS = (8, 10, 12, 14, 16), (1.0, 255.0, 65535.0)
# Limits of a guess: how many headers and how many pictures are read at most, and after how many
# values no further pictures are read.
HEADERS, PICTURES, PIXELS = 200, 48, 100_000_000
# How many pixels are converted to 8 bits at a time.
STRIP = 1_000_000
# One byte expands to at most 1,032 bytes in Deflate, and to 2,730 in LZW.
MOST_OF_A_BYTE = 2_800
TAG_BITS, TAG_COMPRESSION, TAG_PHOTOMETRIC, TAG_PLANAR = 258, 259, 262, 284
TAG_OFFSETS, TAG_EXTRA, TAG_FORMAT, TAGS_LARGEST = 273, 338, 339, (281, 341)
MIN_IS_WHITE, RGB, YCBCR = 0, 2, 6
Read = Callable[[int], object]


class Deep(NamedTuple):
    """Holds a picture's values as they are stored.

    Attributes:
        values: Grey or RGB values, with or without alpha.
        said: The values of black and of white, if the file states them; else None.
        inverted: Whether the lowest value is white.
        premultiplied: Whether the colours have been multiplied by alpha.
    """

    values: Num[np.ndarray, "height width channels"]
    said: Limits | None
    inverted: bool = False
    premultiplied: bool = False


def deep_of(data: bytes, max_pixels: int = MAX_PIXELS) -> Deep | None:
    """Returns a deep picture's stored values; None for a picture that is left to Pillow.

    Args:
        data: The file's content.
        max_pixels: Largest number of pixels to decode; for pixels of more than 8 bytes, the limit
            is lower.

    Raises:
        PIL.Image.DecompressionBombError: The picture has more pixels than `max_pixels` allows, or
            more than can be stored in `data`.
        Exception: The file is broken or of an unsupported kind; the error may be of any kind.

    Example:
        >>> file = io.BytesIO()
        >>> Image.fromarray(np.full((2, 3), 4095, np.uint16)).save(file, "PNG")
        >>> int(deep_of(file.getvalue()).values.max())
        4095
    """
    form = format_of(data)
    if form == "PNG" and data[24:25] == b"\x10":
        width, height = struct.unpack(">II", data[16:24])
        check_size(width, height, max_pixels)
        _check_bytes(width * height * 2, data)
        return _png(data)
    if form == "TIFF" and (tags := _tags(data)) is not None and _is_deep(tags):
        bits = _numbers(tags, TAG_BITS, 1)
        width, height = int(tags[256]), int(tags[257])
        check_size(width, height, max_pixels * 8 // max(8, sum(bits) // 8))
        _check_bytes(width * height * sum(bits) // 8, data)
        return _tiff(data, tags)
    if form == "PPM" and data[1:2] in (b"F", b"f"):
        header = read_header(data)
        check_size(*header.size, max_pixels)
        return Deep(np.asarray(header)[..., None], None)
    return None


def _check_bytes(needed: int, data: bytes) -> None:
    """Refuses a file that is too short for its pixels, before OpenCV allocates memory for them.

    Raises:
        PIL.Image.DecompressionBombError: The file is too short for this many bytes of pixels.
    """
    if needed > MOST_OF_A_BYTE * len(data):
        raise Image.DecompressionBombError(
            f"{needed:,} bytes of pixels do not fit into {len(data):,} bytes; the file is cut short"
        )


def pixels_of(deep: Deep, ranges: Ranges) -> UInt8[np.ndarray, "height width 3"]:
    """Returns the picture in 8 bits, with black as 0 and white as 255; values beyond are clipped.

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
    return 0.0, float(min(np.iinfo(dtype).max, 65535))


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
        finite = deep.values[..., : 3 if deep.values.shape[2] > 2 else 1]
        finite = finite[np.isfinite(finite)] if finite.dtype.kind == "f" else finite
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
    if kind == "floats" and -1 <= low < 0 and high <= 1:
        return -1.0, 1.0
    whites = FLOATS if kind == "floats" else tuple(2.0**bits - 1 for bits in BITS)
    # Floats slightly above white, such as a filter's overshoot, do not mean a larger scale.
    slack = 1.01 if kind == "floats" else 1.0
    white = next((white for white in whites if high <= white * slack), None)
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
    return known or full_scale(dtype)


def _spread(items: Sequence[int], most: int) -> Sequence[int]:
    return items[:: max(1, -(-len(items) // most))]


def _may_be_deep(begin: bytes) -> bool:
    form = format_of(begin)
    return (form == "PNG" and begin[24:25] == b"\x10") or form in ("TIFF", "PPM")


def _tags(data: bytes) -> TiffImagePlugin.ImageFileDirectory_v2 | None:
    """Returns a TIFF's first directory, even if Pillow cannot read its pixels; else None."""
    try:
        header = data[:16] if data[2:3] == b"+" or data[3:4] == b"+" else data[:8]
        tags = TiffImagePlugin.ImageFileDirectory_v2(header)
        file = io.BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        return tags
    except Exception:
        # A broken file may make Pillow raise anything; Pillow's own reader will report the file.
        return None


def _is_deep(tags: TiffImagePlugin.ImageFileDirectory_v2) -> bool:
    photometric = tags.get(TAG_PHOTOMETRIC, 0)
    bits, formats = _numbers(tags, TAG_BITS, 1), _numbers(tags, TAG_FORMAT, 1)
    if photometric == YCBCR:
        # Pillow mistakes the values of an uncompressed YCbCr picture for RGB.
        return max(bits) == 8 and tags.get(TAG_COMPRESSION, 1) == 1
    return photometric in (0, 1, RGB) and (max(bits) > 8 or any(kind != 1 for kind in formats))


def _numbers(tags: TiffImagePlugin.ImageFileDirectory_v2, tag: int, default: int) -> list[int]:
    return [int(number) for number in np.ravel(tags.get(tag, default))] or [default]


def _tiff(data: bytes, tags: TiffImagePlugin.ImageFileDirectory_v2) -> Deep | None:
    bits, photometric = _numbers(tags, TAG_BITS, 1), tags.get(TAG_PHOTOMETRIC, 0)
    planes = len(bits) > 1 and tags.get(TAG_PLANAR, 1) == 2
    values = _planes(data, tags) if planes else _opencv(data)
    if values is None:
        return None
    extra = _numbers(tags, TAG_EXTRA, 0)[0]
    if values.shape[2] == 4 and extra not in (1, 2, 999):
        values = values[..., :3]
    said = None
    if values.dtype == np.uint16 and max(bits) < 16:
        # OpenCV shifts packed numbers left, so that they fill 16 bits.
        said = 0.0, float((2 ** max(bits) - 1) << (16 - max(bits)))
    elif values.dtype == np.int8:
        said = -128.0, 127.0
    else:
        largest = {float(number) for tag in TAGS_LARGEST for number in np.ravel(tags.get(tag, ()))}
        # According to the standard, these tags hold the largest value that occurs. It is taken for
        # white only if it is a value that white usually has.
        if len(largest) == 1 and (white := largest.pop()) in _whites(values.dtype):
            said = 0.0, white
    return Deep(values, said, photometric == MIN_IS_WHITE, extra == 1)


def _whites(dtype: np.dtype) -> tuple[float, ...]:
    return FLOATS if dtype.kind == "f" else tuple(2.0**bits - 1 for bits in range(8, 33))


def _planes(data: bytes, tags: TiffImagePlugin.ImageFileDirectory_v2) -> np.ndarray | None:
    """Reads a TIFF whose colours are separate planes, which neither Pillow nor OpenCV combines.

    Raises:
        ValueError: The planes are compressed, tiled, damaged or of an unsupported type.
    """
    bits, offsets = _numbers(tags, TAG_BITS, 1), _numbers(tags, TAG_OFFSETS, 0)
    kind = {1: "u", 2: "i", 3: "f"}.get(_numbers(tags, TAG_FORMAT, 1)[0])
    if tags.get(TAG_COMPRESSION, 1) != 1 or offsets == [0] or kind is None or bits[0] % 8:
        raise ValueError("its colours are stored as separate planes that are compressed or tiled")
    width, height = int(tags[256]), int(tags[257])
    dtype = np.dtype(f"{'<' if data[:2] == b'II' else '>'}{kind}{bits[0] // 8}")
    strips = zip(offsets, _numbers(tags, 279, 0), strict=True)
    content = b"".join(data[begin : begin + size] for begin, size in strips)
    planes = np.frombuffer(content, dtype).reshape(len(bits), height, width)
    return planes.transpose(1, 2, 0).astype(dtype.newbyteorder("="))


def _png(data: bytes) -> Deep | None:
    if data[25:26] == b"\0":
        # The picture is grey, and Pillow reads its values as they are stored.
        return Deep(np.asarray(read_header(data))[..., None], None)
    # Other chunks are left out, since OpenCV allocates as much memory as the length that a chunk
    # states, which may be false.
    values = _opencv(png_pixels(data))
    return None if values is None else Deep(values, None)


def _opencv(data: bytes) -> np.ndarray | None:
    """Decodes to grey or RGB, maybe with alpha; None if OpenCV fails. A TIFF comes out upright."""
    with _quiet():
        values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        return None
    if values.ndim == 2:
        return values[..., None]
    order = [2, 1, 0, 3][: values.shape[2]] if values.shape[2] > 2 else [0, 1]
    return values[..., order]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences OpenCV's messages on standard error; a missing result shows a failure."""
    logging = cv2.utils.logging
    level = logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(level)
