"""Figures of a model's answers tell right ones from wrong ones."""

import numpy as np

from jaxch5.plots.mistakes import plot_answers


def test_an_answer_is_wrong_although_its_shortened_name_is_the_same():
    """Only the middle of these names differs, which a title has no room for."""
    predicted, actual = (f"Chevrolet Silverado {year} Crew Cab 2012" for year in (1500, 2500))
    figure = plot_answers([np.zeros((8, 8, 3))] * 2, [predicted] * 2, [predicted, actual], 1, 2)
    right, wrong = (axes.get_title() for axes in figure.axes)
    assert right.startswith("✓ Chevrolet")
    assert wrong.startswith("✗ Chevrolet")
    assert "\nis Chevrolet" in wrong
