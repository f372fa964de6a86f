"""Suggested rates are fastai's on fastai's own sweeps, and sensible on simple curves."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxch5.errors import TrainingError
from jaxch5.optim.suggest import suggest_lr

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())
LRS = 1e-7 * 1e8 ** (np.arange(100) / 100)


@pytest.mark.parametrize("case", GOLDEN["lr_find"], ids=lambda case: str(case["stopped_after"]))
def test_suggestions_are_fastais(case):
    losses = case["smooth_loss"][: case["stopped_after"]]
    suggested = suggest_lr(LRS[: len(losses)], losses, 100)
    for name, rate in case["suggestions"].items():
        assert suggested[name] == pytest.approx(rate, rel=1e-5), name


def test_the_last_decrease_is_the_end_of_the_slope():
    """For a loss that falls from 1e-4 to 1e-2, `last_decrease` suggests 1e-2.

    The loss falls in a straight line, is flat before and after it, and rises at the end.
    """
    log = np.log10(LRS)
    losses = 3 - np.clip(log + 4, 0, 2) + 5 * np.clip(log + 0.5, 0, None)
    assert np.log10(suggest_lr(LRS, losses, 100)["last_decrease"]) == pytest.approx(-2, abs=0.1)


def test_a_rate_is_found_on_any_curve():
    rng = np.random.default_rng(0)
    for _ in range(50):
        rates = suggest_lr(LRS, np.cumsum(rng.normal(size=100)), 100).values()
        assert all(1e-8 <= rate <= 10 for rate in rates)


@pytest.mark.parametrize("rise", [1.0, 0.0])
def test_no_rate_is_suggested_if_the_loss_never_falls(rise):
    """Its highest rate, at which everything explodes, was suggested by `valley`."""
    with pytest.raises(
        TrainingError, match=r"the loss never fell between the rates 6\.3e-07 and 3"
    ):
        suggest_lr(LRS, 1 + np.linspace(0, rise, 100), 100)


def test_a_fall_at_the_first_step_alone_suggests_the_lowest_rates():
    losses = np.r_[np.full(11, 2.0), np.linspace(1, 1.9, 89)]
    assert suggest_lr(LRS, losses, 100)["valley"] == pytest.approx(LRS[10])


def test_losses_that_are_no_numbers_are_passed_over():
    losses = np.linspace(3, 1, 100)
    losses[[20, 70]] = np.nan
    assert np.isfinite(list(suggest_lr(LRS, losses, 100).values())).all()


def test_a_sweep_that_exploded_at_once_says_so():
    with pytest.raises(TrainingError, match="lower rate"):
        suggest_lr(LRS[:12], np.ones(12), 100)
