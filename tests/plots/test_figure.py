"""Figures are displayed as pictures in a notebook."""

import io

import numpy as np
import pytest
from PIL import Image

import jaxch5 as jx
from jaxch5.plots.training import plot_pictures, plot_transfer_profile
from jaxch5.run.recorder import Recorder

INTERP = jx.Interpretation(
    [0, 1, 1], np.eye(2)[[0, 0, 1]], ["a", "b"], pictures=lambda item: np.zeros((8, 8, 3))
)
RECORDER = Recorder(losses=[2.0, 1.0], lrs=[[0.1], [0.2]], moms=[0.9, 0.8])
FIGURES = {
    "pictures": lambda: plot_pictures(np.zeros((1, 8, 8, 3)), ["a"], 1, 1),
    "lr_find": lambda: jx.plot_lr_find([([1e-3, 1e-2, 1e-1], [2.0, 1.0, 3.0])], {}),
    "transfer_profile": lambda: plot_transfer_profile([[0.9]], [0.5], ["stem"]),
    "augmentations": lambda: jx.plot_augmentations(np.zeros((30, 40, 3), np.uint8), size=8),
    "confusion": INTERP.plot_confusion_matrix,
    "top_losses": lambda: INTERP.plot_top_losses(1),
    "calibration": INTERP.plot_calibration,
    "loss": RECORDER.plot_loss,
    "sched": RECORDER.plot_sched,
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_notebook_shows_every_figure_as_a_picture(name):
    """Every figure has `_repr_png_`, which IPython calls to display an object.

    Matplotlib's own figures do not have this method.
    """
    figure = FIGURES[name]()
    width, height = figure.get_size_inches() * figure.dpi
    picture = Image.open(io.BytesIO(figure._repr_png_()))
    assert picture.format == "PNG"
    assert picture.size == (int(width), int(height))
    drawn = np.asarray(picture.convert("RGB"))
    assert (drawn != drawn[0, 0]).any()
