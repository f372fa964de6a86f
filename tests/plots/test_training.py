"""Figures show titles as plain text, recommended rates as a band, and a legend above curves."""

import io

import numpy as np
import pytest

from jaxch5.plots.training import plot_lr_find, plot_pictures, shortened


def test_each_picture_is_under_its_title_in_plain_text():
    pictures = np.random.default_rng(0).random((2, 4, 6, 3), np.float32)
    figure = plot_pictures(pictures, ["$\\frac{", "a\nb"], 1, 2)
    figure.savefig(io.BytesIO())
    assert [axes.get_title() for axes in figure.axes] == ["$\\frac{", "a b"]
    for axes, picture in zip(figure.axes, pictures, strict=True):
        (drawn,) = axes.images
        np.testing.assert_array_equal(drawn.get_array(), picture)


def test_the_band_of_recommended_rates_is_shaded():
    sweeps = [(np.geomspace(1e-4, 1, 9).tolist(), np.geomspace(2, 1, 9).tolist())]
    figure = plot_lr_find(sweeps, {"valley": 1e-2}, (1e-2, 1e-1))
    (axes,) = figure.axes
    assert axes.get_title() == "recommended learning rate: 1.0e-02"
    (band,) = axes.patches
    assert (band.get_x(), band.get_x() + band.get_width()) == pytest.approx((1e-2, 1e-1))


def test_the_legend_of_a_sweep_covers_the_curve_behind_it():
    """The legend has a nearly opaque frame, since letters across a curve cannot be read.

    A flat loss with a steep end leaves no corner of the figure free.
    """
    rates = np.geomspace(1e-7, 1, 99).tolist()
    losses = [2.8] * 90 + [4.0] * 9
    figure = plot_lr_find([(rates, losses)], dict.fromkeys("abcde", 1e-3), (1e-3, 1e-2))
    frame = figure.axes[0].get_legend().get_frame()
    assert frame.get_visible()
    assert frame.get_alpha() > 0.8


def test_long_titles_keep_both_ends():
    short = shortened("Australian_shepherd_with_a_very_long_name_and_number_17")
    assert len(short) == 24
    assert short.startswith("Australian")
    assert short.endswith("17")
