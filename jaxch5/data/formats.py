"""Defines the picture formats that are read: their file extensions, first bytes and metadata."""

from __future__ import annotations

import io
import math
import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from jaxch5.errors import DataError

ORIENTATION, SAMPLES, PLANAR = 274, 277, 284
# In AVIF and HEIC files, the kind of an item is stored 8 bytes after the name of its box, `infe`.
ITEM = re.compile(rb"(infe.{8})(?:Exif|mime)", re.DOTALL)


class _Tiff(TiffImagePlugin.TiffImageFile):
    """Reads planar TIFF files with one sample per pixel, whose raw mode Pillow would truncate."""

    def _setup(self) -> None:
        if self.tag_v2.get(SAMPLES, 1) == 1:
            self.tag_v2[PLANAR] = 1
        super()._setup()


# Only these formats and HEIC are tried, whatever name a file has. A format is left out if its
# reader starts another program (PostScript and its relatives), if it has no signature (TGA), or if
# its header does not say how many pixels a file holds (icons). Pillow's classes are called
# directly, because Image.open uses a global table, to which other code may add formats, and has its
# own limit on large pictures.
OPENERS: dict[str, Callable[[io.BytesIO], Image.Image]] = {
    # An MPO file, which is a JPEG followed by others, is read as a JPEG too.
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "TIFF": _Tiff,
    "BMP": BmpImagePlugin.BmpImageFile,
    "JPEG2000": Jpeg2KImagePlugin.Jpeg2KImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
}
BEGINNINGS: dict[str, tuple[bytes, ...]] = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "TIFF": tuple(TiffImagePlugin.PREFIXES),
    "BMP": (b"BM",),
    "JPEG2000": (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n"),
    "PPM": tuple(b"P" + kind for kind in (b"1", b"2", b"3", b"4", b"5", b"6", b"F", b"f")),
}
# Bytes that end a picture in these formats; a camera may append something to the file after them.
ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
FIRST_BYTES, LAST_BYTES = 256, 64
SUFFIXES_OF: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".pjp", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "AVIF": (".avif", ".avifs"),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp", ".dib"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "HEIF": (".heic", ".heif", ".hif"),
}
SUFFIXES = tuple(suffix for suffixes in SUFFIXES_OF.values() for suffix in suffixes)
# Decoders need at most 12 bytes of memory per pixel, but up to 24 for these formats.
TWICE_THE_MEMORY = ("WEBP", "AVIF", "JPEG2000", "HEIF")
HEIC = "HEIC, which needs the extra heic: python -m pip install -e '.[heic]'"


def read_header(data: bytes) -> Image.Image:
    """Returns a picture's header (`size`, `mode`, `format`) without decoding its pixels.

    Args:
        data: The file's content, whose first bytes tell its format.

    Raises:
        DataError: The picture is HEIC, and the extra `heic` is not installed.
        Exception: The file is broken; Pillow may raise any kind of error then.

    Example:
        >>> file = io.BytesIO()
        >>> Image.new("L", (4, 3)).save(file, "PNG")
        >>> read_header(file.getvalue()).size
        (4, 3)
    """
    form = format_of(data)
    if form is None:
        raise Image.UnidentifiedImageError
    return (_heif if form == "HEIF" else OPENERS[form])(io.BytesIO(data))


def ends_as_it_begins(file: str | os.PathLike[str]) -> bool:
    """Checks whether a file begins and ends as a picture does, without reading the rest of it.

    This is only a hint: an intact file may fail the check, and a broken file may pass it.
    """
    try:
        with open(file, "rb", buffering=0) as opened:
            head = opened.read(FIRST_BYTES)
            opened.seek(-min(LAST_BYTES, opened.seek(0, os.SEEK_END)), os.SEEK_END)
            tail = opened.read()
        form = format_of(head)
        if form == "HEIF":
            _heif(io.BytesIO(head))
    except (OSError, DataError):
        return False
    except Exception:
        # `_heif` is called to find out whether the reader for HEIC is installed. If it is, the
        # first bytes may still not be enough for it.
        return True
    return form is not None and ENDS.get(form, b"") in tail


def check_size(width: int, height: int, max_pixels: int, cost: float = 1) -> None:
    """Refuses a picture with too many pixels before it takes memory.

    Args:
        width, height: The picture's sides, in pixels.
        max_pixels: Largest number of pixels.
        cost: How many pixels each pixel counts as, since decoding it takes more memory.

    Raises:
        PIL.Image.DecompressionBombError: The picture has more than `max_pixels` pixels.
    """
    if (needed := math.ceil(width * height * cost)) > max_pixels:
        counting = "" if cost == 1 else f", each of which counts as {cost:g},"
        raise Image.DecompressionBombError(
            f"{width} x {height} pixels{counting} are more than {max_pixels:,} "
            f"(--data.max-pixels {needed} allows them)"
        )


def format_of(data: bytes) -> str | None:
    """Returns the format that a file's first bytes indicate; None for a format that is not read.

    Example:
        >>> format_of(b"GIF89a..."), format_of(b"%!PS-Adobe-3.0")
        ('GIF', None)
    """
    for form, beginnings in BEGINNINGS.items():
        if data.startswith(beginnings):
            return form
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] != b"ftyp":
        return None
    # The ftyp box holds the main brand, a version and the other brands that the file follows.
    box = data[8 : min(int.from_bytes(data[:4]), 256)]
    brands = {box[place : place + 4] for place in range(0, len(box), 4) if place != 4}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    return "HEIF" if brands & {b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1"} else None


def orientation_of(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1 to 8, of an opened picture; 1 if it cannot be read.

    A TIFF's is 1, since its decoder, Pillow or OpenCV, turns it upright, and the header's size is
    that of the upright picture.

    Example:
        >>> image = Image.new("L", (4, 3))
        >>> image.getexif()[ORIENTATION] = 6
        >>> orientation_of(image)
        6
    """
    if image.format == "TIFF":
        return 1
    # The base class's method is called, because the method of PNG's class decodes the pixels, in
    # order to find EXIF data that follow them.
    with suppress(Exception):
        found = Image.Image.getexif(image).get(ORIENTATION)
        return found if isinstance(found, int) and 1 <= found <= 8 else 1
    return 1


def without_metadata(data: bytes) -> Iterator[bytes]:
    """Yields versions of a file with less metadata, for decoders that fail on damaged metadata."""
    form = format_of(data)
    if form == "PNG":
        yield png_pixels(data, keep=True)
        yield png_pixels(data)
    elif form == "JPEG":
        # Only the colour profile is hidden, since Pillow tolerates whatever else the segments hold.
        yield data.replace(b"ICC_PROFILE\0", b"NO__PROFILE\0")
    elif form in ("AVIF", "HEIF"):
        # Items with metadata are given an unknown kind, so that decoders skip them. The orientation
        # is not stored in these items.
        yield ITEM.sub(rb"\1none", data)


def png_pixels(data: bytes, keep: bool = False) -> bytes:
    """Returns a PNG with only the chunks that its pixels need, up to the first truncated chunk.

    Args:
        data: The file's content.
        keep: Whether the chunks with the orientation and with the colour profile are kept too, if
            they are intact.
    """
    kept = {b"tRNS", *([b"eXIf", b"iCCP"] if keep else [])}
    parts, place = [data[:8]], 8
    while place + 12 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4])
        if end > len(data):
            break
        kind = data[place + 4 : place + 8]
        intact = zlib.crc32(data[place + 4 : end - 4]) == int.from_bytes(data[end - 4 : end])
        # A capital first letter marks a chunk that the pixels need.
        if kind[:1].isupper() or (kind in kept and intact):
            parts.append(data[place:end])
        place = end
    return b"".join(parts)


def _heif(file: io.BytesIO) -> Image.Image:
    # The class is called directly: registering it would change what Pillow reads everywhere.
    try:
        from pillow_heif.as_plugin import HeifImageFile
    except ImportError:
        raise DataError(HEIC) from None
    return HeifImageFile(file)
