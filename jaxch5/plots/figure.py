"""Defines the figure that all plots draw on: a matplotlib figure that notebooks show."""

from __future__ import annotations

import io

from matplotlib import figure


class Figure(figure.Figure):
    """A matplotlib figure that a notebook shows if it is the result of a cell.

    A plain figure would be shown as text such as `<Figure size 600x400 with 1 Axes>`, unless
    `matplotlib.pyplot` was imported. But pyplot keeps every figure in memory and chooses a display,
    which a library should not do.

    Example:
        >>> Figure()._repr_png_()[1:4]
        b'PNG'
    """

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()
