"""Checks that JPEG files are harmless, and decodes them in full or at a fraction of their size."""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image

# A JPEG file spends at least one bit on each 8 by 8 block of each component, so a byte holds up to
# 512 pixels of a grey picture, and fewer of a coloured one. A file in which a byte would have to
# hold more pixels is broken or malicious.
MAX_PIXELS_A_BYTE = 512
# Each scan of a progressive JPEG goes over the whole picture; encoders write about ten scans.
MAX_SCANS = 64
# If a file has several scans, decoders keep all coefficients in memory, with two bytes for each,
# even if they decode at a fraction of the size. The coefficients may take this many bytes for each
# pixel that `max_pixels` allows.
COEFFICIENTS = 9
# Decoding at libjpeg's other fractions, such as 5/8, takes longer than decoding at the full size.
FRACTIONS = (8, 4, 2)
START_OF_SCAN = b"\xff\xda"
# A marker that is neither a stuffed byte nor a restart ends a scan.
MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
# Markers without a segment after them: TEM and the restarts.
ALONE = {0x01, *range(0xD0, 0xD8)}
START, END, SCAN = 0xD8, 0xD9, 0xDA
# Segments that precede the scan in most files: tables, the restart interval, comments, and
# application segments, which may hold a profile. EXIF, which may hold an orientation, is excluded.
BASELINE, PROFILE = 0xFFC0, 0xFFE2
PASSED_OVER = {0xFFC4, 0xFFDB, 0xFFDD, 0xFFFE, *range(0xFFE0, 0xFFF0)} - {0xFFE1}
PROFILE_BEGINS, PROFILE_ALONE = b"ICC_PROFILE\0", b"\1\1"


class Plain(NamedTuple):
    """Holds the header of an ordinary JPEG: grey or coloured, upright, in one scan, without EXIF.

    Attributes:
        size: Width and height, in pixels.
        profile: Colour profile of the picture; None if it has none.
    """

    size: tuple[int, int]
    profile: bytes | None


def read_plain(data: bytes) -> Plain | None:
    """Reads the header of an ordinary JPEG (see `Plain`); returns None for any other file.

    Pillow takes several times as long to read the header: about a twentieth of all the time that is
    spent on a small picture.

    Example:
        >>> import io
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (4, 3)).save(file, "JPEG")
        >>> read_plain(file.getvalue())
        Plain(size=(4, 3), profile=None)
    """
    if not data.startswith(b"\xff\xd8"):
        return None
    size, profile, layers, place = None, None, 0, 2
    try:
        while True:
            marker, length = struct.unpack_from(">HH", data, place)
            if marker == BASELINE and size is None:
                bits, height, width, layers = struct.unpack_from(">BHHB", data, place + 4)
                size = width, height
                if bits != 8 or layers not in (1, 3) or not width * height:
                    return None
            elif marker == PROFILE and data.startswith(PROFILE_BEGINS, place + 4):
                begin, end = place + 18, place + 2 + length
                if size or profile or data[begin - 2 : begin] != PROFILE_ALONE:
                    return None
                profile = data[begin:end]
            elif marker == 0xFF00 | SCAN:
                return Plain(size, profile or None) if size and data[place + 4] == layers else None
            elif marker not in PASSED_OVER:
                return None
            place += 2 + length
    except (struct.error, IndexError):
        # The file is cut short.
        return None


def part_of(header: Image.Image | Plain, data: bytes, min_side: int | None, max_pixels: int) -> int:
    """Returns the factor by which decoding divides a picture's sides: 1, 2, 4 or 8.

    Args:
        header: The header, as returned by Pillow or by `read_plain`.
        data: The file's content.
        min_side: Number of pixels that the short side must keep, if it has that many and
            `max_pixels` allows it; None keeps the full size if `max_pixels` allows it.
        max_pixels: Largest number of pixels to decode.

    Raises:
        PIL.Image.DecompressionBombError: The file is cut short, or decoding it would take too much
            memory or time.
    """
    width, height = header.size
    pixels = width * height
    size = f"{width} x {height} pixels"
    if pixels > MAX_PIXELS_A_BYTE * len(data):
        raise Image.DecompressionBombError(
            f"{size} do not fit into {len(data):,} bytes; the file is cut short"
        )
    if not isinstance(header, Plain) and not _in_one_scan(header, data):
        scans, layers = count_scans(data), getattr(header, "layers", 4)
        if scans > MAX_SCANS:
            raise Image.DecompressionBombError(f"{scans} scans exceed the limit of {MAX_SCANS}")
        if 2 * layers * pixels > COEFFICIENTS * max_pixels:
            raise Image.DecompressionBombError(
                f"{size} in several scans take too much memory for a limit of {max_pixels:,} "
                "pixels (--data.max-pixels)"
            )
    needed = next((part for part in (1, 2, 4, 8) if pixels <= max_pixels * part**2), None)
    if needed is None:
        raise Image.DecompressionBombError(
            f"{size} are more than {max_pixels:,} (--data.max-pixels), even at 1/8 of the size"
        )
    short = min(header.size)
    fitting = next((part for part in FRACTIONS if min_side and short >= part * min_side), 1)
    return max(needed, fitting)


def decode_at(
    data: bytes, header: Image.Image | Plain, part: int
) -> UInt8[np.ndarray, "height width 3"] | None:
    """Decodes a grey or coloured JPEG without turning it upright; None if simplejpeg refuses it."""
    # libjpeg-turbo, used through simplejpeg, took half as long for photographs as Pillow's decoder.
    # simplejpeg decodes at the smallest fraction that gives at least the width and height it is
    # passed; 0 stands for the full size.
    least = [-(-side // part) if part > 1 else 0 for side in header.size]
    try:
        return simplejpeg.decode_jpeg(data, "RGB", min_width=least[0], min_height=least[1])
    except ValueError:
        return None


def _in_one_scan(header: Image.Image, data: bytes) -> bool:
    """Checks whether a JPEG has only one scan, as most do; decoders then look for no more scans.

    If it does, the scans need not be counted. To count them, the whole file has to be read, which
    takes a twentieth of the time that is spent on a picture.
    """
    layers = getattr(header, "layers", 0)
    begin = START_OF_SCAN + bytes([0, 2 * layers + 6, layers])
    # Pillow has read up to the end of the first scan's parameters.
    file = getattr(header, "fp", None)
    place = file.tell() - 2 * layers - 8 if file else -1
    return place > 0 and data.startswith(begin, place) and "progressive" not in header.info


def count_scans(data: bytes) -> int:
    """Returns how many scans a JPEG has up to its end; what follows the end is ignored.

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
