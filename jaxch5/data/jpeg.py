"""JPEG files: whether they are harmless, and decoding them, or a fraction of their size."""

from __future__ import annotations

import re

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image

# A JPEG file spends a bit on each block of 8 by 8 of each component, of which subsampling makes 10
# for 512 pixels: 410 pixels a byte. A file that promises more is cut short, or was made to harm.
MAX_PIXELS_A_BYTE = 512
# Each scan of a progressive JPEG goes over all of it; encoders make about ten.
MAX_SCANS = 64
# With several scans the coefficients of all components are kept, two bytes each, whatever fraction
# of the pixels is made of them: as many bytes as pixels are allowed, times this.
COEFFICIENTS = 9
# libjpeg's other fractions, such as 5/8, take longer to decode than all of it.
FRACTIONS = (8, 4, 2)
START_OF_SCAN = b"\xff\xda"
# In a scan, what is neither a stuffed byte nor a restart ends it.
MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
# Markers that nothing follows: TEM and the restarts.
ALONE = {0x01, *range(0xD0, 0xD8)}
START, END, SCAN = 0xD8, 0xD9, 0xDA


def part_of(header: Image.Image, data: bytes, min_side: int | None, max_pixels: int) -> int:
    """Returns the divisor, 1, 2, 4 or 8, at whose fraction of its size a picture is decoded.

    Args:
        header: what Pillow makes of the file's first bytes.
        data: the file's content.
        min_side: pixels below which no side may fall; None decodes all, where that is allowed.
        max_pixels: largest number of pixels to decode.

    Raises:
        PIL.Image.DecompressionBombError: it would take much memory or time.
    """
    pixels = header.width * header.height
    size = f"{header.width} x {header.height} pixels"
    if pixels > MAX_PIXELS_A_BYTE * len(data):
        raise Image.DecompressionBombError(
            f"{size} cannot be in {len(data):,} bytes; it is cut short"
        )
    if not _in_one_scan(header, data):
        scans, layers = count_scans(data), getattr(header, "layers", 4)
        if scans > MAX_SCANS:
            raise Image.DecompressionBombError(f"{scans} scans are more than {MAX_SCANS}")
        if 2 * layers * pixels > COEFFICIENTS * max_pixels:
            raise Image.DecompressionBombError(
                f"{size} in several scans are too many for {max_pixels:,} (--data.max-pixels)"
            )
    needed = next((part for part in (1, 2, 4, 8) if pixels <= max_pixels * part**2), None)
    if needed is None:
        raise Image.DecompressionBombError(
            f"{size} are more than {max_pixels:,} (--data.max-pixels), at an eighth as well"
        )
    short = min(header.size)
    fitting = next((part for part in FRACTIONS if min_side and short >= part * min_side), 1)
    return max(needed, fitting)


def decode_at(
    data: bytes, header: Image.Image, part: int
) -> UInt8[np.ndarray, "height width 3"] | None:
    """Decodes a grey or coloured JPEG, not yet turned; None where this decoder refuses it."""
    # libjpeg-turbo through simplejpeg took half the time of Pillow's decoder on photographs. It
    # takes the smallest fraction that reaches these sizes; asked for none, it decodes all.
    least = [-(-side // part) if part > 1 else 0 for side in header.size]
    try:
        return simplejpeg.decode_jpeg(data, "RGB", min_width=least[0], min_height=least[1])
    except ValueError:
        return None


def _in_one_scan(header: Image.Image, data: bytes) -> bool:
    """Checks whether a JPEG has only one scan, as most do; no decoder reads a second one then.

    Counting the scans would mean reading the whole file, a twentieth of the time of a picture.
    """
    layers = getattr(header, "layers", 0)
    begin = START_OF_SCAN + bytes([0, 2 * layers + 6, layers])
    # Pillow has read up to the end of the first scan's parameters.
    file = getattr(header, "fp", None)
    place = file.tell() - 2 * layers - 8 if file else -1
    return place > 0 and data.startswith(begin, place) and "progressive" not in header.info


def count_scans(data: bytes) -> int:
    """Returns how many scans a JPEG has up to its end; what follows the end is not looked at.

    Example:
        >>> import io
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (16, 16)).save(file, "JPEG")
        >>> count_scans(file.getvalue() + b"a film, with any bytes" + 99 * START_OF_SCAN)
        1
    """
    scans, place = 0, 2
    while match := MARKER.search(data, place):
        marker, place = match[1][0], match.end()
        if marker in (START, END):
            break
        if marker not in ALONE:
            scans += marker == SCAN
            place += int.from_bytes(data[place : place + 2])
    return scans
