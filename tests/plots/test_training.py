"""Figures hold what they are given, whatever the titles are."""

import io

import numpy as np

from jaxch5.plots.training import plot_pictures, shortened


def test_titles_are_plain_text():
    figure = plot_pictures(np.zeros((2, 4, 4, 3)), ["$\\frac{", "a\nb"], 1, 2)
    figure.savefig(io.BytesIO())
    assert figure.axes[1].get_title() == "a b"


def test_long_titles_keep_both_ends():
    short = shortened("Australian_shepherd_with_a_very_long_name_and_number_17")
    assert len(short) == 24
    assert short.startswith("Australian")
    assert short.endswith("17")
