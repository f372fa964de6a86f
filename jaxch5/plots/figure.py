"""The figure that everything here draws on: matplotlib's, which a notebook shows by itself."""

from __future__ import annotations

import io

from matplotlib import figure


class Figure(figure.Figure):
    """A matplotlib figure that a notebook shows where it is the last line of a cell.

    Otherwise it would show text such as `<Figure size 600x400 with 1 Axes>`, unless somebody had
    imported `matplotlib.pyplot`, which keeps every figure and chooses a display, as no library
    should.

    Example:
        >>> Figure()._repr_png_()[1:4]
        b'PNG'
    """

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()
