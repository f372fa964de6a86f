"""Colour profiles: a picture's numbers become those of sRGB, which networks were trained on."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageCms

from jaxch5.text import printable

# Profiles whose transforms are kept: each camera and each screen has one.
KEPT = 32
# Levels, of 255, by which a profile may differ from sRGB and be taken for it.
SAME = 1
# Pixels that are converted at a time, since that takes copies.
STRIP = 1_000_000
# What cameras write that were set to Adobe RGB, in place of a profile (DCF 2.0), in either order of
# bytes: that the colours are none of sRGB's, and the name of the rule.
R03 = (
    (b"\x01\xa0\x03\0\x01\0\0\0\xff\xff", b"\x01\0\x02\0\x04\0\0\0R03\0"),
    (b"\xa0\x01\0\x03\0\0\0\x01\xff\xff", b"\0\x01\0\x02\0\0\0\x04R03\0"),
)


class Profile(NamedTuple):
    """A profile that is none of sRGB's.

    Attributes:
        space: what its numbers are: "RGB", "GRAY" or "CMYK".
        transform: to sRGB, of pictures of that mode.
        shades: of a grey profile, sRGB's grey for each of its levels.
    """

    space: str
    transform: ImageCms.ImageCmsTransform
    shades: UInt8[np.ndarray, "256"] | None


def profile_in(info: Mapping[Any, Any]) -> bytes | None:
    """The colour profile that comes with a picture, or that its EXIF stands for.

    Args:
        info: of a `PIL.Image.Image`.
    """
    if profile := info.get("icc_profile"):
        return profile
    exif = info.get("exif")
    if isinstance(exif, bytes) and any(all(one in exif for one in entries) for entries in R03):
        return adobe_rgb()
    return None


@lru_cache(KEPT)
def load_profile(content: bytes) -> Profile | None:
    """How a profile's numbers become sRGB's; None where they are, or the profile is damaged."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(content))
        space = opened.profile.xcolor_space.strip()
        if space not in ("RGB", "GRAY", "CMYK"):
            return None
        mode = "L" if space == "GRAY" else space
        transform = ImageCms.buildTransform(
            opened,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        if space == "CMYK":
            return Profile(space, transform, None)
        levels = np.arange(256, dtype=np.uint8)
        if space == "GRAY":
            shades = np.asarray(transform.apply(Image.fromarray(levels[None])))[0, :, 1]
            same = np.abs(shades.astype(int) - levels).max() <= SAME
            return None if same else Profile(space, transform, shades)
        # All colours of 16 levels each: there are many files of sRGB's profile.
        cube = np.stack(np.meshgrid(*[levels[::17]] * 3), -1).reshape(64, 64, 3)
        made = np.asarray(transform.apply(Image.fromarray(cube)))
        return (
            None
            if np.abs(made - cube.astype(int)).max() <= SAME
            else Profile(space, transform, None)
        )
    except Exception:
        # Damaged metadata costs the metadata; lcms, through Pillow, raises several kinds of errors.
        return None


def to_srgb(
    pixels: UInt8[np.ndarray, "height width 3"], content: bytes | None
) -> UInt8[np.ndarray, "height width 3"]:
    """The picture in sRGB's numbers; the same where its profile is sRGB's, or is for other numbers.

    Args:
        pixels: a picture; it may be written to.
        content: its profile.

    Example:
        >>> red = np.full((1, 1, 3), (200, 0, 0), np.uint8)
        >>> to_srgb(red, adobe_rgb())[0, 0].tolist()
        [234, 0, 0]
    """
    profile = load_profile(content) if content else None
    if profile is None or profile.space == "CMYK":
        return pixels
    if profile.shades is not None:
        grey = np.array_equal(pixels[..., 0], pixels[..., 2])
        return profile.shades[pixels] if grey else pixels
    rows = max(1, STRIP // pixels.shape[1])
    for top in range(0, len(pixels), rows):
        strip = Image.fromarray(pixels[top : top + rows])
        pixels[top : top + rows] = np.asarray(profile.transform.apply(strip))
    return pixels


def inks_to_rgb(image: Image.Image, content: bytes | None) -> Image.Image:
    """A CMYK picture in sRGB, by its profile where it has one for CMYK."""
    profile = load_profile(content) if content else None
    if profile is None or profile.space != "CMYK":
        return image.convert("RGB")
    return profile.transform.apply(image)


@lru_cache(1)
def lab_to_rgb() -> ImageCms.ImageCmsTransform:
    """A transform from CIE's L*a*b* to sRGB."""
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(lab, srgb, "LAB", "RGB")


def profile_name(content: bytes) -> str:
    """What a profile calls itself.

    Example:
        >>> profile_name(adobe_rgb())
        'compatible with Adobe RGB (1998)'
    """
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(content))
        return printable(ImageCms.getProfileDescription(opened).strip()) or "without a name"
    except Exception:
        return "damaged"


@lru_cache(1)
def adobe_rgb() -> bytes:
    """A profile of Adobe RGB (1998), for cameras that only name it.

    Source: Adobe RGB (1998) Color Image Encoding, 2005-05: primaries adapted to D50, gamma 563/256.
    """
    primaries = [
        (0.60974, 0.31111, 0.01947),
        (0.20528, 0.62567, 0.06087),
        (0.14919, 0.06322, 0.74457),
    ]
    return matrix_profile("compatible with Adobe RGB (1998)", primaries, 563 / 256)


def matrix_profile(name: str, primaries: list[tuple[float, float, float]], gamma: float) -> bytes:
    """An ICC profile, version 2, of three primaries and a gamma.

    Args:
        name: what it calls itself, in ASCII.
        primaries: X, Y and Z of red, green and blue, adapted to D50.
        gamma: exponent of the tone curves.
    """

    def xyz(values: tuple[float, float, float]) -> bytes:
        return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(65536 * value) for value in values))

    text = name.encode("ascii") + b"\0"
    curve = b"curv" + struct.pack(">IIH2x", 0, 1, round(256 * gamma))
    tags = {
        b"desc": b"desc" + struct.pack(">II", 0, len(text)) + text + bytes(78 + -len(text) % 4 + 2),
        b"cprt": b"text" + bytes(4) + b"none" + bytes(4),
        b"wtpt": xyz((0.9642, 1.0, 0.8249)),
        **{
            kind: xyz(values)
            for kind, values in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)
        },
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }
    table, body = struct.pack(">I", len(tags)), b""
    for kind, content in tags.items():
        table += kind + struct.pack(">II", 128 + 4 + 12 * len(tags) + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(
        ">I4sI4s4s4s12s4s20s",
        128 + len(table + body),
        b"",
        0x02100000,
        b"mntr",
        b"RGB ",
        b"XYZ ",
        struct.pack(">6H", 2020, 1, 1, 0, 0, 0),
        b"acsp",
        b"",
    )
    head += bytes(8) + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + table + body
