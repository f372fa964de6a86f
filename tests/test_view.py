"""Validation, learners' files and exports see the same share of a picture (`View`).

This view is the one that the user chose, or else the one with which the weights were tested.
"""

import jax
import numpy as np
import pytest
from flax import linen as nn

from jaxch5.data.block import DataBlock
from jaxch5.data.source import digits
from jaxch5.data.split import random_split
from jaxch5.errors import ConfigError
from jaxch5.learner import vision_learner
from jaxch5.results.artifacts import as_stablehlo
from jaxch5.results.predictor import load_learner
from jaxch5.view import WHOLE, View, view_of


class Tiny(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(10, name="head")(x.reshape(x.shape[0], 192))


@pytest.fixture(scope="module")
def data():
    return DataBlock(digits(), random_split(), presize=16, size=8).load(batch_size=64)


def test_without_weights_all_of_the_short_side_is_seen(data):
    assert vision_learner(data, Tiny()).view == WHOLE == View(1.0, "bilinear")


@pytest.mark.parametrize("view", [View(0.5), View(0.75, "bicubic")])
def test_what_is_validated_is_what_a_file_and_an_export_predict(data, view, tmp_path):
    learn = vision_learner(data, Tiny(), **vars(view))
    validated = learn.get_preds()[0]
    assert not np.allclose(validated, vision_learner(data, Tiny()).get_preds()[0], atol=1e-3)
    learn.save(tmp_path / "learner.safetensors")
    loaded = load_learner(tmp_path / "learner.safetensors", model=Tiny())
    assert loaded.about.view == view
    predicted = loaded.probabilities_of(data.source, data.valid.items[:9])
    np.testing.assert_allclose(predicted, validated[:9], rtol=1e-5)
    program = jax.export.deserialize(bytearray(as_stablehlo(loaded)))
    batch = next(iter(data.valid)).open()
    squares = np.asarray(batch.image)[:9, :, :16]
    np.testing.assert_allclose(program.call(squares), validated[:9], rtol=1e-5)


@pytest.mark.parametrize("said", [{"crop_pct": 0.0}, {"crop_pct": 1.1}, {"interpolation": "no"}])
def test_what_cannot_be_seen_is_refused(data, said):
    (name, value) = next(iter(said.items()))
    with pytest.raises(ConfigError, match=f"data.{name} = {value}: should be"):
        vision_learner(data, Tiny(), **said)


def test_a_choice_wins_over_the_weights_and_they_over_nothing():
    weights = View(0.9, "bicubic")
    assert view_of({}, weights) == weights
    assert view_of({"crop_pct": 1.0, "interpolation": None}, weights) == View(1.0, "bicubic")
