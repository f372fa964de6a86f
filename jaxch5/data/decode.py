"""Decodes one picture as a person would see it: upright, in sRGB, with black 0 and white 255."""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from jaxch5.config.ranges import parse_range
from jaxch5.config.settings import MAX_PIXELS
from jaxch5.data.depth import Deep, deep_of
from jaxch5.data.formats import (
    TWICE_THE_MEMORY,
    check_size,
    orientation_of,
    read_header,
    without_metadata,
)
from jaxch5.data.jpeg import decode_at, part_of, read_plain
from jaxch5.data.profiles import inks_to_rgb, lab_to_rgb, profile_in, to_srgb
from jaxch5.data.scale import full_scale, pixels_of
from jaxch5.errors import DataError
from jaxch5.util.text import printable

WAY_OUT = "; fix the file or remove it"
# How many pixels are converted to RGB at a time, since the conversion makes copies of them.
STRIP = 1_000_000
# Beginnings of Pillow's names for pixels of more than 8 bits.
DEEP_MODES = ("I", "F")
# Formats whose values Pillow returns as they are stored; None is a picture made in memory. Other
# formats state the bit depth of integers, and Pillow scales them up to 16 bits.
AS_STORED = (None, "PNG", "TIFF")
# Orientations that swap the axes.
SIDEWAYS = (5, 6, 7, 8)


class Reading(NamedTuple):
    """Holds those choices about decoding a set's pictures that the files themselves leave open.

    Attributes:
        range: Which values are black and white in pictures with more than 8 bits per channel; see
            `parse_range`.
        max_pixels: Largest number of pixels that a decoded picture may have.
    """

    range: str = "auto"
    max_pixels: int = MAX_PIXELS


AS_FILES_SAY = Reading()


class Decoded(NamedTuple):
    """Holds a picture upright and in 8 bits, but still in the colours of its own profile.

    Converting the colours takes longer than shrinking the picture, so the picture is shrunk before
    its colours are converted.

    Attributes:
        pixels: Red, green and blue.
        profile: The colours' ICC profile, to be passed to `to_srgb`; None if they are in sRGB.
    """

    pixels: UInt8[np.ndarray, "height width 3"]
    profile: bytes | None = None


def decode(
    data: bytes,
    reference: str = "picture",
    min_side: int | None = None,
    reading: Reading = AS_FILES_SAY,
) -> UInt8[np.ndarray, "height width 3"]:
    """Returns a picture as a person would see it: upright, in sRGB.

    The EXIF orientation and the colour profile are applied. Grey, palette and CMYK pictures, and
    pictures with more than 8 bits per channel, become 8-bit RGB. Transparent pixels are blended
    with white. Only the first frame of an animation is read. Damaged metadata is ignored.

    Args:
        data: The file's content, in one of the formats that docs/training.md lists.
        reference: What error messages call the picture.
        min_side: Smallest side, in pixels, to which a JPEG may be reduced while it is decoded; None
            decodes it at its full size, unless that exceeds `reading.max_pixels`.
        reading: Which values are black and white, and how many pixels a picture may have.

    Raises:
        DataError: The picture cannot be read; the message says why.

    Example:
        >>> import io
        >>> file = io.BytesIO()
        >>> Image.new("L", (4, 3), color=7).save(file, "PNG")
        >>> decode(file.getvalue())[0, 0].tolist()
        [7, 7, 7]
    """
    return to_srgb(*decode_stored(data, reference, min_side, reading))


def decode_stored(
    data: bytes,
    reference: str = "picture",
    min_side: int | None = None,
    reading: Reading = AS_FILES_SAY,
) -> Decoded:
    """Decodes like `decode`, but leaves the colours unconverted."""
    try:
        return _decoded(data, min_side, reading)
    except Image.UnidentifiedImageError:
        reason = "is not a picture in a known format" if data else "is an empty file"
    except DataError as error:
        reason = f"is {error}"
    except Image.DecompressionBombError as error:
        reason = f"is refused: {error}"
    except Exception as error:
        # A broken file may make a decoder raise any kind of error.
        reason = f"cannot be decoded ({printable(str(error)) or type(error).__name__})"
    raise DataError(f"{reference}: {reason}{WAY_OUT}")


def decode_opened(
    image: Image.Image, reference: str = "picture", reading: Reading = AS_FILES_SAY
) -> Decoded:
    """Decodes like `decode_stored`, from a picture that Pillow has opened or made.

    Args:
        image: The picture; its EXIF orientation is applied if it still has one.
        reference: What error messages call the picture.
        reading: See `decode`.

    Raises:
        DataError: The picture cannot be read; the message says why.

    Example:
        >>> decode_opened(Image.new("LA", (1, 1), (0, 0))).pixels.tolist()
        [[[255, 255, 255]]]
    """
    form = image.format
    # Damaged metadata is ignored.
    with suppress(Exception):
        image = ImageOps.exif_transpose(image)
    try:
        return _pixels(image, reading, form)
    except DataError as error:
        reason = f"is {error}"
    except Exception as error:
        reason = f"cannot be decoded ({printable(str(error)) or type(error).__name__})"
    raise DataError(f"{reference}: {reason}")


class Header(NamedTuple):
    """Holds what a file's header says about its picture.

    Attributes:
        format: Name of the format.
        mode: Pillow's name for the kind of pixels, or NumPy's if Pillow cannot read them.
        size: Width and height of the upright picture, in pixels.
        profile: Colour profile; None if the picture has none.
    """

    format: str
    mode: str
    size: tuple[int, int]
    profile: bytes | None


def look_at(data: bytes) -> Header:
    """Reads a picture's header, for every kind of picture that `decode` reads.

    Raises:
        Exception: The header cannot be read; Pillow may raise any kind of error then.
    """
    for content in (data, *without_metadata(data)):
        with suppress(Exception):
            image = read_header(content)
            width, height = image.size
            size = (height, width) if orientation_of(image) in SIDEWAYS else (width, height)
            return Header(image.format or "", image.mode, size, profile_in(image.info))
    if deep := deep_of(data):
        height, width, _ = deep.values.shape
        return Header("TIFF", str(deep.values.dtype), (width, height), None)
    raise Image.UnidentifiedImageError


def _decoded(data: bytes, min_side: int | None, reading: Reading) -> Decoded:
    try:
        return _read(data, min_side, reading)
    except (DataError, Image.UnidentifiedImageError, Image.DecompressionBombError):
        raise
    except Exception:
        for bare in without_metadata(data):
            try:
                return _read(bare, min_side, reading)
            except Exception:
                continue
        raise


def _read(data: bytes, min_side: int | None, reading: Reading) -> Decoded:
    if plain := read_plain(data):
        part = part_of(plain, data, min_side, reading.max_pixels)
        pixels = decode_at(data, plain, part)
        if pixels is not None:
            return Decoded(_cut(pixels, plain.size, part), plain.profile)
    deep = deep_of(data, reading.max_pixels)
    if deep is not None:
        return _deep(data, deep, reading)
    header = read_header(data)
    if header.format == "JPEG":
        return _jpeg(data, header, min_side, reading)
    check_size(*header.size, reading.max_pixels, 2 if header.format in TWICE_THE_MEMORY else 1)
    return _upright(_pixels(header, reading, header.format), header)


def _deep(data: bytes, deep: Deep, reading: Reading) -> Decoded:
    pixels = pixels_of(deep, parse_range(reading.range))
    try:
        header = read_header(data)
    except Exception:
        # Pillow does not know this kind of file, so its profile and orientation cannot be read.
        return Decoded(pixels)
    return _upright(Decoded(pixels, profile_in(header.info)), header)


def _jpeg(data: bytes, header: Image.Image, min_side: int | None, reading: Reading) -> Decoded:
    # The size is read now, because `draft` changes it.
    size, part = header.size, part_of(header, data, min_side, reading.max_pixels)
    pixels = decode_at(data, header, part) if header.mode in ("L", "RGB") else None
    if pixels is not None:
        decoded = Decoded(pixels, profile_in(header.info))
    else:
        # Pillow accepts harmless oddities, as viewers do, but refuses truncated files.
        header.draft(None, (header.width // part, header.height // part))
        decoded = _pixels(header, reading, header.format)
    return _upright(decoded._replace(pixels=_cut(decoded.pixels, size, part)), header)


def _cut(
    pixels: UInt8[np.ndarray, "height width 3"], size: tuple[int, int], part: int
) -> UInt8[np.ndarray, "new_height new_width 3"]:
    """Crops a picture decoded at a fraction of its size, to sides rounded to the nearest pixel.

    The decoder rounds the sides up. In the picture that it returns, points are therefore off by up
    to a pixel; after cropping, they are off by at most half a pixel.
    """
    if part == 1:
        return pixels
    width, height = (round(side / part) for side in size)
    return np.ascontiguousarray(pixels[:height, :width])


def _pixels(image: Image.Image, reading: Reading, form: str | None) -> Decoded:
    """Decodes a picture that Pillow has opened from a file of the format `form`, or made."""
    image.load()
    profile = profile_in(image.info)
    if image.mode.startswith(DEEP_MODES):
        whole = image.mode != "F" and form not in AS_STORED
        said = full_scale(np.dtype(np.uint16)) if whole else None
        deep = Deep(np.asarray(image)[..., None], said)
        return Decoded(pixels_of(deep, parse_range(reading.range)), profile)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        pixels[top : top + rows] = _to_rgb(strip, profile)
    return Decoded(pixels, None if image.mode in ("CMYK", "LAB") else profile)


def _upright(decoded: Decoded, header: Image.Image) -> Decoded:
    """Undoes the EXIF orientation, 1 to 8; for 5 to 8 the axes are swapped before any mirroring."""
    orientation = orientation_of(header)
    pixels = decoded.pixels
    # OpenCV takes a twentieth of NumPy's time here.
    if orientation in SIDEWAYS:
        pixels = cv2.transpose(pixels)
    if orientation in (2, 3, 6, 7):
        pixels = cv2.flip(pixels, 1)
    if orientation in (3, 4, 7, 8):
        pixels = cv2.flip(pixels, 0)
    return decoded._replace(pixels=np.ascontiguousarray(pixels))


def _to_rgb(image: Image.Image, profile: bytes | None) -> UInt8[np.ndarray, "height width 3"]:
    if image.mode == "CMYK":
        image = inks_to_rgb(image, profile)
    elif image.mode == "LAB":
        image = lab_to_rgb().apply(image)
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(paper, image)
    return np.asarray(image.convert("RGB"))
