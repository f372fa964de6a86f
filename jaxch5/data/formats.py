"""The formats of pictures that are read: how they end, how they begin, what their header says."""

from __future__ import annotations

import io
from collections.abc import Callable

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

SAMPLES, PLANAR = 277, 284


class _Tiff(TiffImagePlugin.TiffImageFile):
    """A TIFF; where one sample is said to be in planes, Pillow forgets how it is stored."""

    def _setup(self) -> None:
        if self.tag_v2.get(SAMPLES, 1) == 1:
            self.tag_v2[PLANAR] = 1
        super()._setup()


# No others are tried, whatever a file is named. Left out is what starts another program (PostScript
# and its kin), what has no first bytes to know it by (TGA), and icons, whose header does not say
# how many pixels are inside. A class each, since Pillow's table of formats is global, holds what
# others registered, and refuses large pictures whatever our own limit is.
OPENERS: dict[str, Callable[[io.BytesIO], Image.Image]] = {
    # Not as MPO, which is a JPEG followed by others.
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
# Decoders take 12 bytes a pixel at most, but for these, which take up to 24.
TWICE_THE_MEMORY = ("WEBP", "AVIF", "JPEG2000", "HEIF")
HEIC = "HEIC, which needs the extra heic: python -m pip install -e '.[heic]'"


def read_header(data: bytes) -> Image.Image:
    """Returns what a picture says of itself (`size`, `mode`, `format`), before anything is decoded.

    Args:
        data: the file's content, whose first bytes tell its format.

    Raises:
        DataError: it is HEIC, and the extra `heic` is not installed.
        Exception: of many kinds; Pillow raises whatever a broken file leads it to.

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


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Refuses a picture that would take much memory, before it does.

    Raises:
        PIL.Image.DecompressionBombError: it has more pixels.
    """
    if width * height > max_pixels:
        raise Image.DecompressionBombError(
            f"{width} x {height} are more than {max_pixels:,} pixels (--data.max-pixels)"
        )


def format_of(data: bytes) -> str | None:
    """Returns the format that a file's first bytes tell; None where it is none that is read.

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
    # The box of brands: the main one, a version, and those that it can be read as.
    box = data[8 : min(int.from_bytes(data[:4]), 256)]
    brands = {box[place : place + 4] for place in range(0, len(box), 4) if place != 4}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    return "HEIF" if brands & {b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1"} else None


def _heif(file: io.BytesIO) -> Image.Image:
    # By its class: registering it would change what Pillow reads for the whole process.
    try:
        from pillow_heif.as_plugin import HeifImageFile
    except ImportError:
        raise DataError(HEIC) from None
    return HeifImageFile(file)
