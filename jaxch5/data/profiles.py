"""Converts pictures that have colour profiles to sRGB, since networks are always given sRGB."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, UInt8, UInt16
from PIL import Image, ImageCms

from jaxch5.util.text import printable

# Number of profiles kept in parsed form; each camera and each screen has its own.
KEPT = 256
# By how many levels, out of 255, a profile may differ from sRGB and still count as sRGB.
SAME = 1
# Number of pixels that are converted at a time: few enough to stay in a processor's cache.
STRIP = 32768
# EXIF entries that mean Adobe RGB if a camera writes no profile (DCF 2.0), given for either byte
# order. Of the two entries, one says that the colours are not in sRGB, and the other is the
# interoperability index.
R03 = (
    (b"\x01\xa0\x03\0\x01\0\0\0\xff\xff", b"\x01\0\x02\0\x04\0\0\0R03\0"),
    (b"\xa0\x01\0\x03\0\0\0\x01\xff\xff", b"\0\x01\0\x02\0\0\0\x04R03\0"),
)


class Arithmetic(NamedTuple):
    """Holds a curve for each colour, or one for all, and a matrix that leads to linear sRGB.

    Linear colours have 16 bits. With these curves and this matrix, OpenCV converts a picture in
    less than an eighth of the time that lcms takes.
    """

    curves: UInt16[np.ndarray, "1 256 curves"]
    matrix: Float32[np.ndarray, "3 3"]

    def apply(
        self, pixels: UInt8[np.ndarray, "height width 3"]
    ) -> UInt8[np.ndarray, "height width 3"]:
        """Returns the picture in sRGB."""
        # OpenCV rounds the values, and clips those that are out of range.
        return look_up(cv2.transform(cv2.LUT(pixels, self.curves), self.matrix), srgb_levels())


class Profile(NamedTuple):
    """Holds a profile other than sRGB, with its conversion.

    Attributes:
        space: Colour space of the profile: "RGB", "GRAY" or "CMYK".
        arithmetic: Conversion to sRGB, if the profile is one for RGB that consists of curves and a
            matrix, as most do; else None.
        shades: For each grey level, the corresponding one in sRGB, if the profile is one for grey;
            else None.
        transform: Conversion to sRGB, if the profile is of another kind; else None.
    """

    space: str
    arithmetic: Arithmetic | None = None
    shades: UInt8[np.ndarray, "256"] | None = None
    transform: ImageCms.ImageCmsTransform | None = None


def profile_in(info: Mapping[Any, Any]) -> bytes | None:
    """Returns the colour profile that a picture's file holds or its EXIF implies; None if neither.

    Args:
        info: The attribute `info` of a `PIL.Image.Image`.
    """
    if profile := info.get("icc_profile"):
        return profile
    exif = info.get("exif")
    if isinstance(exif, bytes) and any(all(one in exif for one in entries) for entries in R03):
        return adobe_rgb()
    return None


@lru_cache(KEPT)
def load_profile(content: bytes) -> Profile | None:
    """Returns a profile's conversion to sRGB; None if it is sRGB itself, damaged or unsupported."""
    levels = np.arange(256, dtype=np.uint8)
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(content))
        space = opened.profile.xcolor_space.strip()
        if space == "RGB" and (arithmetic := _arithmetic(content, opened)):
            # The results are compared, at 16 levels per colour, rather than the profiles, because
            # many versions of sRGB's profile exist.
            cube = np.stack(np.meshgrid(*[levels[::17]] * 3), -1).reshape(64, 64, 3)
            same = np.abs(arithmetic.apply(cube).astype(int) - cube).max() <= SAME
            return None if same else Profile(space, arithmetic)
        if space not in ("RGB", "GRAY", "CMYK"):
            return None
        transform = ImageCms.buildTransform(
            opened,
            _srgb(),
            "L" if space == "GRAY" else space,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        if space == "GRAY":
            shades = np.asarray(transform.apply(Image.fromarray(levels[None])))[0, :, 1]
            same = np.abs(shades.astype(int) - levels).max() <= SAME
            return None if same else Profile(space, shades=shades)
        return Profile(space, transform=transform)
    except Exception:
        # A damaged profile is ignored; lcms, through Pillow, raises several kinds of errors.
        return None


def to_srgb(
    pixels: UInt8[np.ndarray, "height width 3"], content: bytes | None
) -> UInt8[np.ndarray, "height width 3"]:
    """Converts a picture to sRGB, if its profile is usable, fits the picture and is not sRGB.

    Args:
        pixels: A picture, which is converted in place.
        content: The picture's ICC profile; None if it has none.

    Example:
        >>> red = np.full((1, 1, 3), (200, 0, 0), np.uint8)
        >>> to_srgb(red, adobe_rgb())[0, 0].tolist()
        [234, 0, 0]
    """
    profile = load_profile(content) if content else None
    if profile is None or profile.space == "CMYK":
        return pixels
    if profile.shades is not None:
        if np.array_equal(pixels[..., 0], pixels[..., 2]):
            pixels[:] = profile.shades[pixels]
        return pixels
    rows = max(1, STRIP // pixels.shape[1])
    for top in range(0, len(pixels), rows):
        strip = pixels[top : top + rows]
        if profile.arithmetic:
            strip[:] = profile.arithmetic.apply(strip)
        elif profile.transform:
            strip[:] = np.asarray(profile.transform.apply(Image.fromarray(strip)))
    return pixels


def _arithmetic(content: bytes, opened: ImageCms.ImageCmsProfile) -> Arithmetic | None:
    """Returns a profile's curves and matrix; None if it lacks them, or prefers to use tables."""
    tags = {kind: content[begin : begin + size] for kind, begin, size in _tags(content)}
    # A profile's conversion tables, if it has any, take precedence over its curves and matrix.
    if not opened.profile.is_matrix_shaper or tags.keys() & {b"A2B0", b"A2B1"}:
        return None
    found = [_curve(tags[kind]) for kind in (b"rTRC", b"gTRC", b"bTRC")]
    curves = [curve for curve in found if curve is not None]
    if len(curves) < 3:
        return None

    def primaries(profile: ImageCms.core.CmsProfile) -> np.ndarray:
        found = (profile.red_colorant, profile.green_colorant, profile.blue_colorant)
        return np.array([one[0] for one in found if one]).T

    matrix = np.linalg.solve(primaries(_srgb().profile), primaries(opened.profile))
    linear = np.round(65535 * np.clip(np.stack(curves, -1), 0, 1))
    # Most profiles have one curve for all colours. Looking up values in one curve takes half the
    # time that looking them up in three curves takes.
    linear = linear[:, :1] if (linear == linear[:, :1]).all() else linear
    return Arithmetic(linear[None].astype(np.uint16), matrix.astype(np.float32))


@lru_cache(1)
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _curve(tag: bytes) -> np.ndarray | None:
    """Returns the linear light of each of 256 levels; None for an unsupported kind of curve.

    Source: ICC.1:2010, 10.5 and 10.15.
    """
    level = np.arange(256) / 255
    if tag[:4] == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        points = np.frombuffer(tag, ">u2", count, 12)
        if count < 2:
            return level ** (points[0] / 256 if count else 1)
        return np.interp(level, np.linspace(0, 1, count), points / 65535)
    if tag[:4] == b"para":
        (kind,) = struct.unpack_from(">H", tag, 8)
        numbers = np.frombuffer(tag, ">i4", (1, 3, 4, 5, 7)[kind], 12) / 65536
        g, a, b, c, d, e, f = (*numbers, *[0.0] * 7)[:7]
        if kind == 0:
            return level**g
        # Kinds 1 and 2 are rare, and their black need not be 0.
        if kind in (1, 2):
            return None
        return np.where(level >= d, np.maximum(a * level + b, 0) ** g + e, c * level + f)
    return None


@lru_cache(1)
def srgb_levels() -> UInt8[np.ndarray, "65536"]:
    """Returns sRGB's level for each 16-bit value of linear light (IEC 61966-2-1)."""
    light = np.arange(65536) / 65535
    curved = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.round(255 * curved).astype(np.uint8)


def look_up(places: UInt16[np.ndarray, "*shape"], table: np.ndarray) -> np.ndarray:
    """Returns the entries of a table at the given indices."""
    try:
        return cv2.LUT(places, table)
    except cv2.error:
        # Before OpenCV 5, a table for LUT could have only 256 entries.
        return table.take(places)


def inks_to_rgb(image: Image.Image, content: bytes | None) -> Image.Image:
    """Converts a CMYK picture to sRGB, with the help of its profile if that is one for CMYK."""
    profile = load_profile(content) if content else None
    if profile is None or profile.space != "CMYK" or profile.transform is None:
        return image.convert("RGB")
    return profile.transform.apply(image)


@lru_cache(1)
def lab_to_rgb() -> ImageCms.ImageCmsTransform:
    """Returns a transform from CIE's L*a*b* to sRGB."""
    return ImageCms.buildTransform(ImageCms.createProfile("LAB"), _srgb(), "LAB", "RGB")


def profile_name(content: bytes) -> str:
    """Returns the name that a profile gives itself.

    Example:
        >>> profile_name(adobe_rgb())
        'Adobe RGB'
    """
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(content))
        return printable(ImageCms.getProfileDescription(opened).strip()) or "without a name"
    except Exception:
        return "damaged"


@lru_cache(1)
def adobe_rgb() -> bytes:
    """Returns a profile of Adobe RGB (1998), for pictures that name it in EXIF but do not hold it.

    Source: Adobe RGB (1998) Color Image Encoding, 2005-05, for the primaries, which are adapted to
    D50, and for the gamma, which is 563/256.
    """
    primaries = [
        (0.60974, 0.31111, 0.01947),
        (0.20528, 0.62567, 0.06087),
        (0.14919, 0.06322, 0.74457),
    ]
    return matrix_profile("Adobe RGB", primaries, 563 / 256)


def matrix_profile(name: str, primaries: list[tuple[float, float, float]], gamma: float) -> bytes:
    """Returns an ICC profile with the given primaries and gamma.

    Args:
        name: Name that the profile gives itself, cut to 13 characters.
        primaries: X, Y and Z of red, green and blue, adapted to D50.
        gamma: Exponent of the tone curves.
    """
    # The sRGB profile of lcms is altered. In this profile, all colours share one curve, and the
    # name has 13 characters.
    content = bytearray(_srgb().tobytes())
    places = {kind: begin for kind, begin, _ in _tags(content)}
    for kind, values in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True):
        fixed = [round(65536 * value) for value in values]
        struct.pack_into(">3i", content, places[kind] + 8, *fixed)
    struct.pack_into(">H2xi", content, places[b"rTRC"] + 8, 0, round(65536 * gamma))
    begin, text = places[b"desc"] + 28, name[:13].ljust(13).encode("utf-16-be")
    content[begin : begin + len(text)] = text
    return bytes(content)


def _tags(content: bytes | bytearray) -> list[tuple[bytes, int, int]]:
    """Returns the kind, offset and size of each part of a profile."""
    (count,) = struct.unpack_from(">I", content, 128)
    return [struct.unpack_from(">4sII", content, 132 + 12 * entry) for entry in range(count)]
