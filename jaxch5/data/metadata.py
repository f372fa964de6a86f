"""What files say beside their pixels: which way is up; and the same files without all that."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jaxch5.data.formats import format_of

ORIENTATION, PROFILE = 0x0112, 0x8773
XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)\s*([1-8])')
# What TIFF's pixels follow from: sizes, strips and tiles, compression, colours, kinds of numbers.
TIFF_PIXELS = {
    *(254, 255, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 280, 281, 284, 292, 293, 317),
    *(320, 322, 323, 324, 325, 332, 338, 339, 340, 341, 347, 512, 513, 514, 519, 520, 521),
    *(529, 530, 531, 532),
}
# AVIF and HEIC name the kind of an item in a box of 8 bytes before it.
ITEM = re.compile(rb"(infe.{8})(?:Exif|mime)", re.DOTALL)


def orientation_of(info: Mapping[Any, Any]) -> int:
    """Reads EXIF's orientation, 1 to 8, from Pillow's `info`; 1 where it cannot be read.

    The entry alone is looked for, so that damage elsewhere costs nothing.

    Args:
        info: that of a `PIL.Image.Image`.

    Example:
        >>> entry = struct.pack(">HHIHH", ORIENTATION, 3, 1, 6, 0)
        >>> orientation_of({"exif": b"Exif\\0\\0MM\\0*" + struct.pack(">IH", 8, 1) + entry})
        6
    """
    exif = info.get("exif")
    if not exif and isinstance(text := info.get("Raw profile type exif"), str):
        # What ImageMagick writes into a PNG: a name and a length, then hexadecimal digits.
        digits = "".join(text.split("\n")[3:])
        exif = bytes.fromhex(digits) if re.fullmatch("([0-9a-fA-F]{2})*", digits) else None
    found = _in_exif(exif) if isinstance(exif, bytes) else None
    if found is None:
        xmp = info.get("xmp") or info.get("XML:com.adobe.xmp") or b""
        match = XMP_ORIENTATION.search(xmp.encode() if isinstance(xmp, str) else bytes(xmp))
        found = int(match[1]) if match else 1
    return found if 1 <= found <= 8 else 1


def _in_exif(exif: bytes) -> int | None:
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 10:
        return None
    (place,) = struct.unpack_from(order + "I", tiff, 4)
    if place + 2 > len(tiff):
        return None
    (count,) = struct.unpack_from(order + "H", tiff, place)
    for entry in range(place + 2, min(place + 2 + 12 * count, len(tiff) - 11), 12):
        tag, kind, number = struct.unpack_from(order + "HHI", tiff, entry)
        if tag == ORIENTATION:
            form = {1: "B", 3: "H", 4: "I"}.get(kind)
            return struct.unpack_from(order + form, tiff, entry + 8)[0] if form and number else None
    return None


def without_metadata(data: bytes) -> Iterator[bytes]:
    """Yields the same pixels with less beside them, for decoders that fall over damaged metadata.

    Yields:
        The file with orientation and colour profile alone, and then without these as well; nothing
        for formats that have no such parts.
    """
    form = format_of(data)
    if form not in STRIPS:
        return
    for keep in (True, False):
        try:
            bare = STRIPS[form](data, keep)
        except (struct.error, ValueError, IndexError):
            # Not the metadata alone is damaged.
            return
        if bare != data:
            yield bare


def png_pixels(data: bytes, keep: bool = False) -> bytes:
    """Returns a PNG of what its pixels need, up to a chunk said to be longer than the file.

    Args:
        data: the file's content.
        keep: whether orientation and colour profile stay.
    """
    kept = {b"tRNS", *([b"eXIf", b"iCCP"] if keep else [])}
    parts, place = [data[:8]], 8
    while place + 12 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4])
        if end > len(data):
            break
        kind = data[place + 4 : place + 8]
        # A capital letter marks what is needed to make the picture.
        intact = zlib.crc32(data[place + 4 : end - 4]) == int.from_bytes(data[end - 4 : end])
        if kind[:1].isupper() or (kind in kept and intact):
            parts.append(data[place:end])
        place = end
    return b"".join(parts)


def _webp(data: bytes, keep: bool) -> bytes:
    # The kinds, and the bits of the first chunk that announce them.
    left_out = {b"XMP ": 4} | ({} if keep else {b"EXIF": 8, b"ICCP": 32})
    parts, place, known = [], 12, {b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"}
    known |= {b"EXIF", b"ICCP"} - left_out.keys()
    while place + 8 <= len(data):
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        chunk = bytearray(data[place : place + 8 + size + size % 2])
        place += len(chunk)
        if bytes(chunk[:4]) == b"VP8X":
            chunk[8] &= ~sum(left_out.values())
        if bytes(chunk[:4]) in known:
            parts.append(bytes(chunk))
    body = b"WEBP" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _jpeg(data: bytes, keep: bool) -> bytes:
    # JFIF's and Adobe's segments say which colours the components are.
    kept = {0xE0, 0xEE} | ({0xE1, 0xE2} if keep else set())
    parts, place = [data[:2]], 2
    while data[place] == 0xFF and data[place + 1] != 0xDA:
        marker, end = data[place + 1], place + 2 + int.from_bytes(data[place + 2 : place + 4])
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE) or marker in kept:
            parts.append(data[place:end])
        place = end
    return b"".join(parts) + data[place:]


def _tiff(data: bytes, keep: bool) -> bytes:
    """Appends another directory, of the entries that matter."""
    order = "<" if data[:2] == b"II" else ">"
    if data[2:4] not in (b"*\0", b"\0*"):
        return data
    kept = TIFF_PIXELS | ({ORIENTATION, PROFILE} if keep else set())
    (place,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, place)
    entries = [data[at : at + 12] for at in range(place + 2, place + 2 + 12 * count, 12)]
    entries = [entry for entry in entries if struct.unpack_from(order + "H", entry)[0] in kept]
    if len(entries) == count:
        return data
    header = data[:4] + struct.pack(order + "I", len(data) + len(data) % 2)
    directory = struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4)
    return header + data[8:] + bytes(len(data) % 2) + directory


def _items(data: bytes, keep: bool) -> bytes:
    # Of a kind that no decoder knows; how the picture is turned is said elsewhere.
    return ITEM.sub(rb"\1none", data)


STRIPS: dict[str, Callable[[bytes, bool], bytes]] = {
    "PNG": png_pixels,
    "WEBP": _webp,
    "JPEG": _jpeg,
    "TIFF": _tiff,
    "AVIF": _items,
    "HEIF": _items,
}
