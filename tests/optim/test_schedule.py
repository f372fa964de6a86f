"""Schedules give fastai's rates and momenta, step by step."""

import itertools
import json
import math
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from jaxch5.errors import ConfigError
from jaxch5.optim.groups import group_rates
from jaxch5.optim.schedule import (
    fine_tune_momentum,
    fine_tune_schedule,
    flat_cosine,
    one_cycle,
    one_cycle_momentum,
    sgdr,
    triangular,
)

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())


@pytest.mark.parametrize("case", GOLDEN["one_cycle"], ids=lambda case: f"{case['steps']} steps")
def test_one_cycle_is_fastais(case):
    rate = one_cycle(case["lr_max"], case["steps"], case["pct_start"], case["div"])
    momentum = one_cycle_momentum(case["steps"], case["pct_start"])
    assert [rate(step) for step in case["at"]] == pytest.approx(case["lr"], rel=1e-5)
    assert [momentum(step) for step in case["at"]] == pytest.approx(case["mom"], rel=1e-5)


def test_rate_ends_at_lr_max_over_div_final():
    assert one_cycle(0.1, 10, div_final=1e3)(10) == pytest.approx(1e-4)


@pytest.mark.parametrize("case", GOLDEN["fine_tune"], ids=lambda case: f"{case['epochs']} epochs")
def test_fine_tune_is_fastais_step_by_step(case):
    expected = np.array(case["steps"])
    epochs, steps, freeze = case["epochs"], case["batches_per_epoch"], case["freeze_epochs"]
    rates = fine_tune_schedule(epochs, steps, case["base_lr"], freeze, case["groups"])
    np.testing.assert_allclose(rates, expected[:, :, 0], rtol=1e-5)
    momentum = fine_tune_momentum(epochs, steps, freeze)
    for group in range(case["groups"]):
        np.testing.assert_allclose(momentum, expected[:, group, 1], rtol=1e-5)


def test_flat_cosine_is_flat_then_falls():
    rate = flat_cosine(0.1, 100, pct_start=0.7)
    values = [rate(step) for step in range(101)]
    assert values[:71] == pytest.approx([0.1] * 71)
    assert all(a > b for a, b in itertools.pairwise(values[70:]))
    assert values[100] == pytest.approx(1e-6)


def test_cycles_come_back():
    rate = triangular(1e-4, 1e-2, steps_per_cycle=10)
    assert [rate(step) for step in range(10)] == [rate(step) for step in range(10, 20)]
    assert max(map(rate, range(10))) == rate(5) == pytest.approx(1e-2)
    restarts = [step for step in range(1, 71) if sgdr(1.0, 10)(step) == 1.0]
    assert restarts == [10, 30, 70]


@pytest.mark.parametrize(
    ("steps", "factor", "restarts"),
    [(3, 1.5, [0, 3, 7, 14]), (2, 1.2, [0, 2, 4, 7, 10, 14]), (5, 1, [0, 5, 10, 15])],
)
def test_every_wave_of_sgdr_begins_at_the_highest_rate(steps, factor, restarts):
    rate = sgdr(1.0, steps, factor)
    values = [rate(step) for step in range(restarts[-1] + 2)]
    assert [step for step, value in enumerate(values) if value == 1.0] == restarts
    for begin, end in itertools.pairwise(restarts):
        assert values[begin:end] == sorted(values[begin:end], reverse=True)


def test_a_rate_keeps_its_last_value_beyond_the_last_step():
    momentum = one_cycle_momentum(10)
    for rate in (one_cycle(1.0, 10), flat_cosine(1.0, 10)):
        assert rate(10) == rate(13) == rate(25) == pytest.approx(1e-5)
    assert momentum(10) == momentum(13) == 0.95


Suggested = namedtuple("Suggested", "valley")(1e-3)
REFUSED = [
    (lambda: one_cycle(1.0, 10, pct_start=30), "pct_start = 30: should be above 0 and below 1"),
    (lambda: one_cycle(1.0, 10, div=0), "div = 0: should be a finite number, at least 1"),
    (lambda: one_cycle(1.0, 10, div=-5), "div = -5: should be a finite number, at least 1"),
    (lambda: one_cycle(math.inf, 10), "lr_max = inf: should be above 0 and at most 100"),
    (
        lambda: one_cycle([1e-4, 1e-3], 10),
        r"lr_max = \[0.0001, 0.001\]: in Python this should be one rate",
    ),
    (
        lambda: one_cycle(Suggested, 10),
        r"lr_max = Suggested\(valley=0.001\): in Python this should be one rate",
    ),
    (lambda: one_cycle(1.0, 0), "steps = 0: should be a whole number, at least 1"),
    (lambda: one_cycle_momentum(10, moms=(0.9, 0.8)), r"moms = \(0.9, 0.8\): should be three num"),
    (lambda: one_cycle_momentum(10, moms=0.9), "moms = 0.9: should be three numbers"),
    (lambda: one_cycle_momentum(10, moms=(0.9, 0.8, 1)), "momentum = 1: should be at least 0 and"),
    (lambda: flat_cosine(1.0, 10, div_final=0), "div_final = 0: should be a finite number, at le"),
    (lambda: flat_cosine(1.0, 10, pct_start=1.0), "pct_start = 1.0: should be above 0 and below"),
    (lambda: triangular(-1.0, 1.0, 4), "lr_min = -1.0: should be at least 0 and at most 100"),
    (lambda: triangular(0.0, 1.0, 0), "steps_per_cycle = 0: should be a whole number, at least 1"),
    (lambda: sgdr(slice(1e-3), 10), "lr_max = slice.*: in Python this should be one rate"),
    (lambda: sgdr(1.0, 2.5), "steps = 2.5: should be a whole number, at least 1"),
    (lambda: sgdr(1.0, 10, factor=0.5), "factor = 0.5: should be at least 1 and at most 100"),
    (lambda: fine_tune_schedule(1, 5, lr_mult=0), "lr_mult = 0: should be a finite number, at le"),
    (
        lambda: fine_tune_schedule(1, 5, slice(1e-3)),
        "base_lr = slice.*: in Python this should be one rate",
    ),
    (lambda: fine_tune_schedule(1, 5, math.nan, 0), "base_lr = nan: should be above 0 and at mos"),
    (lambda: fine_tune_schedule(1, 5, layer_decay=2), "layer_decay = 2: should be above 0 and at"),
    (lambda: fine_tune_schedule(0, 5), "epochs = 0: should be a whole number, at least 1"),
    (lambda: fine_tune_momentum(1, 5, -1), "freeze_epochs = -1: should be a whole number, at lea"),
]


@pytest.mark.parametrize(("make", "line"), REFUSED, ids=[line[:20] for _, line in REFUSED])
def test_values_that_make_no_schedule_are_refused(make, line):
    with pytest.raises(ConfigError, match=f"^{line}"):
        make()


def test_layer_decay_gives_each_group_a_share_of_the_next_ones_rate():
    assert group_rates(0.1, 4, 0.75) == [0.1 * 0.75**k for k in (3, 2, 1, 0)]
    rates = fine_tune_schedule(2, 5, 1e-2, 1, 4, div=1.0, layer_decay=0.75)
    peaks = rates[:5].max(axis=0), rates[5:].max(axis=0)
    for lr, peak in zip((peaks[0][-1], 5e-3), peaks, strict=True):
        np.testing.assert_allclose(peak, [lr * 0.75**k for k in (3, 2, 1, 0)], rtol=1e-12)
    line = r"layer_decay = 0\.75: only works with a single rate, not sl"
    with pytest.raises(ConfigError, match=line):
        group_rates(slice(1e-3), 3, 0.75)
    with pytest.raises(ConfigError, match=r"layer_decay = 0\.75: only works with several groups"):
        group_rates(1e-3, 1, 0.75)
    with pytest.raises(ConfigError, match=r"lr_mult = 10: only works with fit\.layer_decay = 1"):
        fine_tune_schedule(1, 5, lr_mult=10, layer_decay=0.75)
