"""Defines how pictures get the shape of the network's input, and which shape that is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from jaxch5.errors import ConfigError

METHODS = ("crop", "squish", "pad")
PAD_MODES = ("reflection", "border", "zeros")
COLOUR = re.compile("#[0-9a-fA-F]{6}")
# A size in pixels: the side of a square, or height and width.
Size = int | tuple[int, int]
# The longest side that pictures are resized to, in pixels.
MAX_SIDE = 4096


def check_pad_mode(text: str) -> str:
    """Checks that a text is a valid `pad_mode` of `Framing`, and returns it.

    Raises:
        ValueError: The text is not valid.

    Example:
        >>> check_pad_mode("#ffffff")
        '#ffffff'
    """
    if text not in PAD_MODES and not COLOUR.fullmatch(text):
        raise ValueError(
            f"{text}: should be one of {', '.join(PAD_MODES)}, or a colour, as in #ffffff"
        )
    return text


@dataclass(frozen=True)
class Framing:
    """Says how pictures get the shape of the network's input, with methods from fastai's `Resize`.

    Args:
        method: "crop" keeps the largest part that has the input's shape, after cutting a longer
            picture to 3:2; "squish" keeps the whole picture, distorted; "pad" keeps the whole
            picture, and fills the rest.
        pad_mode: What padding and augmentation show beyond a picture's border: "reflection";
            "border", which repeats the edge; "zeros", which is black; or a colour such as
            "#ffffff".

    Raises:
        ConfigError: The value of an argument is not one of these.

    Example:
        >>> Framing("pad")
        Framing(method='pad', pad_mode='reflection')
    """

    method: str = "crop"
    pad_mode: str = "reflection"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            said = f"method = {self.method}"
            raise ConfigError(f"{said}: should be one of {', '.join(METHODS)}")
        try:
            check_pad_mode(self.pad_mode)
        except ValueError as error:
            raise ConfigError(f"pad_mode = {error}") from None


CROP = Framing()


def colour_beyond(pad_mode: str) -> tuple[int, int, int] | None:
    """Returns the colour beyond a picture's border, as red, green and blue; None if it varies.

    Example:
        >>> colour_beyond("zeros"), colour_beyond("#ff8000"), colour_beyond("border")
        ((0, 0, 0), (255, 128, 0), None)
    """
    if pad_mode == "zeros":
        return 0, 0, 0
    if not COLOUR.fullmatch(pad_mode):
        return None
    red, green, blue = bytes.fromhex(pad_mode[1:])
    return red, green, blue


def height_and_width(size: Size) -> tuple[int, int]:
    """Returns a size as height and width.

    Example:
        >>> height_and_width(224), height_and_width((224, 160))
        ((224, 224), (224, 160))
    """
    return (size, size) if isinstance(size, int) else size


def size_text(size: Size) -> str:
    """Returns a size as text, in the form that `parse_size` reads.

    Example:
        >>> size_text(224), size_text((224, 160))
        ('224', '224x160')
    """
    return str(size) if isinstance(size, int) else "x".join(map(str, size))


def parse_size(said: Any) -> Size:
    """Parses a value of `--data.size`: a side, or height and width, in pixels.

    Raises:
        ValueError: The value is not a size, or is too small or too large.

    Example:
        >>> parse_size("224"), parse_size("224x160"), parse_size([96, 96])
        (224, (224, 160), 96)
    """
    # A command line gives a list of words; a file's metadata holds such a list as text.
    text = "x".join(map(str, said)) if isinstance(said, list | tuple) else str(said)
    words = re.split("[x, ]+", text.strip("[]()"))
    if len(words) > 2 or not all(word.isdecimal() for word in words):
        raise ValueError(f"{text}: should be a number of pixels, or height x width, as in 224x160")
    height, width = int(words[0]), int(words[-1])
    if not 8 <= min(height, width) <= max(height, width) <= MAX_SIDE:
        raise ValueError(f"{text}: should be from 8 to {MAX_SIDE} pixels")
    return height if height == width else (height, width)
