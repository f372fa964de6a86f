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
    """If the loss falls between the rates 1e-4 and 1e-2, `last_decrease` suggests 1e-2.

    The loss is flat at first, falls in a straight line, is flat again, and rises at the end.
    """
    log = np.log10(LRS)
    losses = 3 - np.clip(log + 4, 0, 2) + 5 * np.clip(log + 0.5, 0, None)
    assert np.log10(suggest_lr(LRS, losses, 100)["last_decrease"]) == pytest.approx(-2, abs=0.1)


@pytest.mark.parametrize("steps", [23, 30, 31])
def test_slide_suggests_the_lowest_rate_of_a_sweep_that_is_shorter_than_its_window(steps):
    losses = np.linspace(2, 1, steps) ** 2
    assert suggest_lr(LRS[:steps], losses, 100)["slide"] == pytest.approx(LRS[10])


def test_a_rate_is_found_on_any_curve():
    """Each rule suggests a rate of the sweep, but none from its first tenth or its very end.

    `minimum` divides such a rate by ten.
    """
    rng = np.random.default_rng(0)
    for _ in range(50):
        suggested = suggest_lr(LRS, np.cumsum(rng.normal(size=100)), 100)
        rates = [10 * rate if name == "minimum" else rate for name, rate in suggested.items()]
        for rate in rates:
            assert np.abs(LRS[10:-5] / rate - 1).min() < 1e-12


@pytest.mark.parametrize("rise", [1.0, 0.0])
def test_no_rate_is_suggested_if_the_loss_never_falls(rise):
    """In an earlier version, `valley` suggested the sweep's highest rate, where losses explode."""
    with pytest.raises(
        TrainingError, match=r"the loss never fell between the rates 6\.3e-07 and 3"
    ):
        suggest_lr(LRS, 1 + np.linspace(0, rise, 100), 100)


def test_a_fall_at_the_first_step_alone_suggests_the_lowest_rates():
    losses = np.r_[np.full(11, 2.0), np.linspace(1, 1.9, 89)]
    assert suggest_lr(LRS, losses, 100)["valley"] == pytest.approx(LRS[10])


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_losses_that_are_no_numbers_are_passed_over(number):
    """The suggestions are those of the same sweep without the steps that have such losses."""
    case = next(case for case in GOLDEN["lr_find"] if case["stopped_after"] > 80)
    losses = np.array(case["smooth_loss"][: case["stopped_after"]])
    rates, steps = LRS[: len(losses)], [20, 55, 70]
    expected = suggest_lr(np.delete(rates, steps), np.delete(losses, steps), 100)
    losses[steps] = number
    assert suggest_lr(rates, losses, 100) == expected


def test_a_sweep_that_exploded_at_once_says_so():
    with pytest.raises(TrainingError, match="lower rate"):
        suggest_lr(LRS[:12], np.ones(12), 100)
