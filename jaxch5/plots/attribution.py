"""Draws figures of where a network looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from PIL import Image

from jaxch5.plots.training import plot_pictures

if TYPE_CHECKING:
    from jaxch5.plots.figure import Figure

# Name of matplotlib's colour map: perceptually uniform, and readable by the colour-blind.
COLORS = "viridis"


def overlay(
    picture: Float[np.ndarray, "height width 3"],
    attribution: Float[np.ndarray, "rows columns"],
    alpha: float = 0.6,
) -> Float[np.ndarray, "height width 3"]:
    """Lays a coloured map over a picture in grey, so that all colour comes from the map.

    Args:
        picture: Picture with values from 0 to 1.
        attribution: Map of any size that covers the picture, with values from 0 to 1.
        alpha: Share of the map's colour in each pixel.

    Example:
        >>> overlay(np.zeros((2, 3, 3)), np.ones((4, 6)), alpha=1)[0, 0].round(2).tolist()
        [0.99, 0.91, 0.14]
    """
    from matplotlib import colormaps

    height, width = picture.shape[:2]
    sized = Image.fromarray(np.asarray(attribution, np.float32)).resize((width, height))
    colored = colormaps[COLORS](np.asarray(sized).clip(0, 1))[..., :3]
    # Weights of red, green and blue in the brightness, from ITU-R BT.601.
    grey = np.asarray(picture) @ np.array([0.299, 0.587, 0.114])
    return alpha * colored + (1 - alpha) * grey[..., None]


def plot_attribution(
    picture: Float[np.ndarray, "height width 3"],
    attribution: Float[np.ndarray, "rows columns"],
    title: str,
) -> Figure:
    """Draws a picture, and beside it the same picture with a map over it.

    Args:
        picture: Picture with values from 0 to 1.
        attribution: Map that covers the picture, with values from 0 to 1.
        title: Title over the picture without the map.

    Example:
        >>> figure = plot_attribution(np.zeros((8, 8, 3)), np.ones((8, 8)), "cat 90 %")
        >>> [axes.get_title() for axes in figure.axes]
        ['cat 90 %', 'where it looks']
    """
    pair = np.stack([picture, overlay(picture, attribution)])
    return plot_pictures(pair, [title, "where it looks"], nrows=1, ncols=2, inches=3.0)
