"""Draws figures of data and of training with matplotlib; this needs no display."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from rich.console import Console

from jaxch5.util.text import printable

if TYPE_CHECKING:
    from jaxch5.plots.figure import Figure

# Maximum length of a title, in characters: a wider one would run into the next picture's title.
TITLE_LENGTH = 24


def plot_pictures(
    pictures: Float[np.ndarray, "pictures height width 3"],
    titles: Sequence[str],
    nrows: int,
    ncols: int,
    inches: float = 2.0,
) -> Figure:
    """Draws a grid of pictures with a title over each; cells beyond the last picture stay empty.

    Args:
        pictures: Pictures with values from 0 to 1.
        titles: Title of each picture.
        nrows, ncols: Rows and columns of the grid.
        inches: Width of a cell, inches.

    Example:
        >>> figure = plot_pictures(np.zeros((3, 8, 8, 3)), ["a", "b", "c"], nrows=2, ncols=2)
        >>> [axes.get_title() for axes in figure.axes]
        ['a', 'b', 'c', '']
    """
    return grid(pictures, [shortened(title) for title in titles], nrows, ncols, inches)


def grid(
    pictures: Sequence[Float[np.ndarray, "height width 3"]] | np.ndarray,
    titles: Sequence[str],
    nrows: int,
    ncols: int,
    inches: float,
    lines: int = 1,
) -> Figure:
    """Draws a grid like `plot_pictures`, but with full titles, and room for several lines."""
    from jaxch5.plots.figure import Figure

    height = inches + 0.09 + 0.16 * lines
    figure = Figure(figsize=(inches * ncols, height * nrows), layout="constrained")
    cells = figure.subplots(nrows, ncols, squeeze=False).ravel()
    for axes in cells:
        axes.set_axis_off()
        # Aligns the titles of a row, whatever the shapes of the pictures.
        axes.set_anchor("N")
    for axes, picture, title in zip(cells, pictures, titles, strict=False):
        axes.imshow(np.asarray(picture, np.float32), vmin=0, vmax=1)
        # A dollar sign would start a formula, but class names are plain text.
        axes.set_title(title, fontsize=9, parse_math=False)
    return figure


def shortened(title: str, length: int = TITLE_LENGTH) -> str:
    """Shortens a title in the middle if it is too long, and escapes unprintable characters.

    matplotlib refuses text with undecodable bytes, which names of folders may contain.

    Example:
        >>> shortened("a_very_long_name_of_a_class_2", 12)
        'a_very…ass_2'
    """
    title = printable(" ".join(title.split()))
    if len(title) <= length:
        return title
    return f"{title[: length // 2]}…{title[-(length - 1 - length // 2) :]}"


def show_in_notebook(draw: Callable[[], Figure]) -> None:
    """Draws a figure and shows it below the running cell; does nothing outside a notebook."""
    if Console().is_jupyter:
        from IPython.display import display

        display(draw())


def plot_lr_find(
    sweeps: Sequence[tuple[Sequence[float], Sequence[float]]],
    suggested: Mapping[str, float],
    recommended: tuple[float, float] | None = None,
) -> Figure:
    """Draws loss against rate on a logarithmic scale, with the suggested rates marked.

    Args:
        sweeps: Rates and smoothed losses of each sweep.
        suggested: Suggested rates, keyed by the names of the rules; the figure marks them on the
            first sweep's curve.
        recommended: The recommended rate and a second one; the band between them is shaded, since
            the rates in it are worth trying.

    Example:
        >>> figure = plot_lr_find([([1e-3, 1e-2, 1e-1], [2.0, 1.0, 3.0])], {"minimum": 1e-3})
        >>> figure.axes[0].get_xscale()
        'log'
    """
    from jaxch5.plots.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for lrs, losses in sweeps:
        axes.plot(lrs, losses, color="tab:blue", alpha=0.9 if len(sweeps) == 1 else 0.5)
    lrs, losses = sweeps[0]
    for number, (name, rate) in enumerate(suggested.items(), start=1):
        loss = np.interp(np.log(rate), np.log(lrs), losses)
        axes.plot(rate, loss, "o", color=f"C{number}", label=f"{name} {rate:.1e}")
    if recommended:
        low, high = sorted(recommended)
        label = f"worth trying: {low:.1e} to {high:.1e}"
        axes.axvspan(low, high, color="tab:green", alpha=0.15, lw=0, label=label)
        axes.set_title(f"recommended learning rate: {recommended[0]:.1e}", fontsize=10)
    # The axis leaves out the explosion at the end, which would flatten the valley.
    low, high = min(losses), max(losses[: max(2, len(losses) // 2)])
    axes.set_ylim(low - 0.1 * (high - low) - 1e-6, high + 0.3 * (high - low) + 1e-6)
    axes.set(xscale="log", xlabel="learning rate", ylabel="smoothed loss")
    if suggested or recommended:
        # A curve may leave no corner free; the legend needs a background to be readable over it.
        axes.legend(framealpha=0.9, edgecolor="none")
    return figure


def plot_transfer_profile(
    frozen: Sequence[Sequence[float]],
    scratch: Sequence[float],
    stages: Sequence[str],
    metric: str = "accuracy",
    is_share: bool = True,
) -> Figure:
    """Draws a metric, such as accuracy, against the number of transferred and frozen stages.

    Args:
        frozen: For each number of frozen stages from 0 upwards, the scores of all repeats.
        scratch: Scores of all repeats of training from scratch.
        stages: Names of the stages, and of the head, which is never frozen.
        metric: Name of the metric.
        is_share: Whether the scores are shares of 1, which are shown as percentages.

    Example:
        >>> figure = plot_transfer_profile([[0.9], [0.8]], [0.5], ["stem", "head"])
        >>> [label.get_text() for label in figure.axes[0].get_xticklabels()]
        ['nothing', 'stem']
    """
    from jaxch5.plots.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    places = range(len(frozen))
    unit, percent = (100, " %") if is_share else (1, "")
    means = [unit * float(np.mean(values)) for values in frozen]
    for place, values in zip(places, frozen, strict=True):
        axes.plot(
            [place] * len(values), [unit * v for v in values], ".", color="tab:blue", alpha=0.5
        )
    axes.plot(places, means, "o-", color="tab:blue", label="pretrained, with frozen stages")
    mean = unit * float(np.mean(scratch))
    axes.axhline(
        mean,
        color="tab:gray",
        linestyle="--",
        label=f"from scratch, {mean:.{1 if is_share else 4}f}{percent}",
    )
    axes.set_xticks(places, ["nothing", *stages[: len(frozen) - 1]])
    axes.set_xlabel("frozen up to and including")
    axes.set_ylabel(metric + percent.replace(" ", ", "))
    axes.legend(frameon=False)
    return figure
