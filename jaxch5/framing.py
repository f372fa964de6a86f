"""Framing: how pictures get the shape of the network's input, and which shape that is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from jaxch5.errors import ConfigError

METHODS = ("crop", "squish", "pad")
PAD_MODES = ("reflection", "border", "zeros")
# Pixels: the side of a square, or height and width.
Size = int | tuple[int, int]
# The longest side that is made of pictures, pixels.
MAX_SIDE = 4096


@dataclass(frozen=True)
class Framing:
    """How pictures get the shape of the network's input, by the names of fastai's `Resize`.

    Args:
        method: "crop" takes a part that has the input's shape, as large as fits into the picture;
            "squish" the whole picture, without its proportions; "pad" the whole picture, with what
            is beyond its border beside it.
        pad_mode: what is seen beyond a picture's border, here and where an augmentation leaves it:
            "reflection"; "border", its edge; "zeros", black.

    Raises:
        ConfigError: one of them is none of these.

    Example:
        >>> Framing("pad")
        Framing(method='pad', pad_mode='reflection')
    """

    method: str = "crop"
    pad_mode: str = "reflection"

    def __post_init__(self) -> None:
        for name, allowed in (("method", METHODS), ("pad_mode", PAD_MODES)):
            if getattr(self, name) not in allowed:
                said = f"{name} = {getattr(self, name)}"
                raise ConfigError(f"{said}: should be one of {', '.join(allowed)}")


CROP = Framing()


def height_and_width(size: Size) -> tuple[int, int]:
    """Returns both sides of a size.

    Example:
        >>> height_and_width(224), height_and_width((224, 160))
        ((224, 224), (224, 160))
    """
    return (size, size) if isinstance(size, int) else size


def size_text(size: Size) -> str:
    """Writes a size as `parse_size` reads it.

    Example:
        >>> size_text(224), size_text((224, 160))
        ('224', '224x160')
    """
    return str(size) if isinstance(size, int) else "x".join(map(str, size))


def parse_size(said: Any) -> Size:
    """Parses a value of `--data.size`: a side, or height and width, pixels.

    Raises:
        ValueError: It is none, or too small or large.

    Example:
        >>> parse_size("224"), parse_size("224x160"), parse_size([96, 96])
        (224, (224, 160), 96)
    """
    # A command line gives a list of words, and a file's metadata the list as text.
    text = "x".join(map(str, said)) if isinstance(said, list | tuple) else str(said)
    words = re.split("[x, ]+", text.strip("[]()"))
    if len(words) > 2 or not all(word.isdecimal() for word in words):
        raise ValueError(f"{text}: should be a number of pixels, or height x width, as in 224x160")
    height, width = int(words[0]), int(words[-1])
    if not 8 <= min(height, width) <= max(height, width) <= MAX_SIDE:
        raise ValueError(f"{text}: should be from 8 to {MAX_SIDE} pixels")
    return height if height == width else (height, width)
