"""Schedules give fastai's rates and momenta, step by step."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from jaxch5.errors import ConfigError
from jaxch5.optim.schedule import (
    even_mults,
    fine_tune_momentum,
    fine_tune_schedule,
    flat_cosine,
    group_rates,
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


@pytest.mark.parametrize("case", GOLDEN["even_mults"], ids=lambda case: f"{case['n']} rates")
def test_even_mults_are_fastais(case):
    assert even_mults(case["start"], case["stop"], case["n"]) == pytest.approx(
        case["values"], rel=1e-9
    )


@pytest.mark.parametrize("case", GOLDEN["fine_tune"], ids=lambda case: f"{case['epochs']} epochs")
def test_fine_tune_is_fastais_step_by_step(case):
    expected = np.array(case["steps"])
    epochs, steps, freeze = case["epochs"], case["batches_per_epoch"], case["freeze_epochs"]
    rates = fine_tune_schedule(epochs, steps, case["base_lr"], freeze, case["groups"])
    np.testing.assert_allclose(rates, expected[:, :, 0], rtol=1e-5)
    momentum = fine_tune_momentum(epochs, steps, freeze)
    for group in range(case["groups"]):
        np.testing.assert_allclose(momentum, expected[:, group, 1], rtol=1e-5)


def test_a_rate_or_a_slice_gives_each_group_its_own():
    assert group_rates(0.1, 3) == [0.1, 0.1, 0.1]
    assert group_rates(slice(0.1), 3) == pytest.approx([0.01, 0.01, 0.1])
    assert group_rates(slice(1e-4, 1e-2), 3) == pytest.approx([1e-4, 1e-3, 1e-2])
    assert group_rates(slice(1e-4, 1e-2), 1) == [1e-2]
    for wrong in (0.0, -1.0, slice(None), slice(0.0, 1.0), slice(-1.0)):
        with pytest.raises(ConfigError, match="lr = "):
            group_rates(wrong, 2)


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
