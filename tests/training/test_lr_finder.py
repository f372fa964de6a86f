"""The sweep smooths losses and ends as fastai's does, and its rates rise evenly."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxch5.errors import ConfigError
from jaxch5.training.lr_finder import smooth_losses, sweep_rates

GOLDEN = json.loads((Path(__file__).parents[1] / "optim" / "golden.json").read_text())


@pytest.mark.parametrize("case", GOLDEN["lr_find"], ids=lambda case: str(case["stopped_after"]))
def test_smooth_losses_and_their_end_are_fastais(case):
    smooth = smooth_losses(case["raw_loss"])
    assert len(smooth) == case["stopped_after"]
    np.testing.assert_allclose(smooth, case["smooth_loss"][: len(smooth)], rtol=1e-5)


def test_rates_are_even_on_a_logarithmic_scale():
    rates = sweep_rates(1e-7, 10.0, 100)
    assert len(rates) == 100
    assert rates[0] == 1e-7
    np.testing.assert_allclose(np.diff(np.log10(rates)), 0.08)


def test_a_loss_that_is_no_number_ends_the_sweep():
    assert len(smooth_losses([2.0, 2.0, float("nan"), 2.0])) == 3
    assert len(smooth_losses([2.0, float("inf"), 2.0])) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        *((0.0, 1.0, 9), (1.0, 1.0, 9), (1e-3, 1e-5, 9), (1e-3, 1.0, 1)),
        *((1e-3, float("inf"), 9), ("1e-3", 1.0, 9), (1e-3, None, 9)),
    ],
)
def test_rates_that_do_not_rise_are_named(wrong):
    with pytest.raises(ConfigError, match="should"):
        sweep_rates(*wrong)
