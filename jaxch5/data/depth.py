"""Reads the values of deep pictures, which have more than 8 bits per channel, as they are stored.

`jaxch5.data.scale` converts them to 8 bits.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Num
from PIL import Image, TiffImagePlugin

from jaxch5.config.ranges import Limits
from jaxch5.config.settings import MAX_PIXELS
from jaxch5.data.formats import SUFFIXES_OF, check_size, format_of, png_pixels, read_header

# File extensions of pictures that may be deep, except those of JPEG 2000 and PGM, which Pillow
# handles.
SUFFIXES = (*SUFFIXES_OF["PNG"], *SUFFIXES_OF["TIFF"], ".pfm")
# The values that stand for white in pictures whose pixels are floats.
FLOATS = (1.0, 255.0, 65535.0)
# One byte expands to at most 1,032 bytes in Deflate, and to 2,730 in LZW.
MOST_OF_A_BYTE = 2_800
TAG_BITS, TAG_COMPRESSION, TAG_PHOTOMETRIC, TAG_PLANAR = 258, 259, 262, 284
TAG_OFFSETS, TAG_EXTRA, TAG_FORMAT, TAGS_LARGEST = 273, 338, 339, (281, 341)
MIN_IS_WHITE, RGB, YCBCR = 0, 2, 6


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
        max_pixels: Largest number of pixels to decode; a pixel of more than 8 bytes counts as more
            than one.

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
        check_size(width, height, max_pixels, max(8, sum(bits) // 8) / 8)
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
