"""Encodes pictures and figures as text for HTML pages."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image as PillowImage

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Longest side of a single picture: twice its displayed size, for high-resolution screens.
PICTURE_SIDE = 384
# Pictures whose longest side is at most this are always PNG, so that each pixel stays sharp when a
# browser enlarges them.
TINY_SIDE = 64
# Longest side of a picture on a contact sheet; a page shows the picture at this size.
TILE_SIDE = 64
SHEET_COLUMNS = 16
FIGURE_DPI = 130


class Image(NamedTuple):
    """A picture embedded in a page.

    Attributes:
        uri: The encoded picture, as a `data:` address.
        width, height: Width and height, pixels.
        alt: Text that describes the picture.
    """

    uri: str
    width: int
    height: int
    alt: str


def figure_image(figure: Figure, alt: str) -> Image:
    """Returns a figure as a picture for a page, in PNG or JPEG, whichever is smaller.

    Drawing takes far longer than writing a report: draw a figure once, not for every report.

    Args:
        figure: Figure to draw.
        alt: Text that describes the figure.

    Example:
        >>> from matplotlib.figure import Figure
        >>> figure_image(Figure(figsize=(2, 1)), "Nothing.")[1:]
        (260, 130, 'Nothing.')
    """
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=FIGURE_DPI, facecolor="white")
    return _encode(PillowImage.open(drawn).convert("RGB"), alt)


def picture_image(
    picture: Float[np.ndarray, "height width 3"] | PillowImage.Image, alt: str
) -> Image:
    """Returns a picture for a page, scaled down if a side is longer than `PICTURE_SIDE`.

    Example:
        >>> picture_image(np.zeros((600, 800, 3)), "Night.")[1:]
        (384, 288, 'Night.')
    """
    image = picture.copy() if isinstance(picture, PillowImage.Image) else as_image(picture)
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE), PillowImage.Resampling.LANCZOS)
    return _encode(image, alt)


class Sheet(NamedTuple):
    """Many small pictures in one file, which takes a third of the space of separate files.

    Attributes:
        uri: The encoded sheet, as a `data:` address.
        places: Left, top, width and height of each picture on the sheet, pixels.
    """

    uri: str
    places: list[tuple[int, int, int, int]]


def contact_sheet(pictures: Sequence[PillowImage.Image]) -> Sheet:
    """Returns a sheet of one or more pictures in rows, each with its own proportions.

    Example:
        >>> sides = (8, 8), (90, 45)
        >>> contact_sheet([PillowImage.new("RGB", one) for one in sides]).places
        [(0, 0, 64, 64), (64, 0, 64, 32)]
    """
    columns = min(SHEET_COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    sheet, places = PillowImage.new("RGB", (TILE_SIDE * columns, TILE_SIDE * rows)), []
    for number, picture in enumerate(pictures):
        # Tiny pictures, such as digits, are enlarged by a whole factor, so their pixels stay sharp.
        factor = max(1, TILE_SIDE // max(picture.size))
        tile = picture.resize((factor * picture.width, factor * picture.height), 0)
        tile.thumbnail((TILE_SIDE, TILE_SIDE), PillowImage.Resampling.LANCZOS)
        corner = number % columns * TILE_SIDE, number // columns * TILE_SIDE
        sheet.paste(tile, corner)
        places.append((*corner, *tile.size))
    return Sheet(_encode(sheet, "", quality=80, subsampling=2).uri, places)


def as_image(picture: Float[np.ndarray, "height width 3"]) -> PillowImage.Image:
    """Converts a picture with values from 0 to 1 to a Pillow picture.

    Example:
        >>> as_image(np.ones((6, 8, 3))).getpixel((0, 0))
        (255, 255, 255)
    """
    levels = np.nan_to_num(np.asarray(picture, np.float32)).clip(0, 1) * 255
    return PillowImage.fromarray(levels.round().astype(np.uint8))


def _encode(image: PillowImage.Image, alt: str, quality: int = 87, subsampling: int = 0) -> Image:
    forms: dict[str, dict[str, Any]] = {"png": {}}
    if max(image.size) > TINY_SIDE:
        forms["jpeg"] = {"quality": quality, "subsampling": subsampling}
    written = {form: io.BytesIO() for form in forms}
    for form, options in forms.items():
        image.save(written[form], form, optimize=True, **options)
    kind = min(forms, key=lambda form: written[form].tell())
    content = base64.b64encode(written[kind].getvalue()).decode()
    return Image(f"data:image/{kind};base64,{content}", image.width, image.height, alt)
