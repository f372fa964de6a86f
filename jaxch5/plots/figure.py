"""Defines the figure that all plots draw on: matplotlib's, which a notebook shows by itself."""

from __future__ import annotations

import io

from matplotlib import figure


class Figure(figure.Figure):
    """A matplotlib figure that a notebook shows if it is the last line of a cell.

    A plain figure would be shown as text such as `<Figure size 600x400 with 1 Axes>`, unless
    somebody imported `matplotlib.pyplot`, which keeps every figure and chooses a display; a library
    should not do that.

    Example:
        >>> Figure()._repr_png_()[1:4]
        b'PNG'
    """

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()
