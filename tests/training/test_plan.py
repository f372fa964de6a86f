"""A plan counts its own steps, and a resumed run skips the plans that are finished."""

import pytest

from jaxch5.errors import ConfigError
from jaxch5.training.plan import left_to_do, plan_at_rate, plan_of_one_cycle, plans_of_fine_tune

# Two phases: one of 10 steps, and one of 20.
PLANS = plans_of_fine_tune(2, 10, 3, 2e-3, 1, 100.0, 0.3, 5.0, 1e5, (0.95, 0.85, 0.95))


def left(step, unvalidated=False):
    return [plan.name for plan in left_to_do(PLANS, step, 10, unvalidated)]


def test_a_phase_is_left_out_when_its_last_epoch_is_validated():
    assert left(0) == left(9) == ["frozen", "unfrozen"]
    assert left(10, unvalidated=True) == ["frozen", "unfrozen"]
    assert left(10) == left(20) == left(20, unvalidated=True) == ["unfrozen"]
    assert left(30, unvalidated=True) == ["unfrozen"]
    assert left(30) == left(40) == left(40, unvalidated=True) == []


def test_a_phase_without_epochs_has_nothing_to_validate():
    empty = plan_at_rate(1, 0.1, 0.9, groups=1)._replace(epochs=0, start=10)
    assert left_to_do([empty], 10, 10, unvalidated=True) == []


def test_each_phase_counts_from_its_own_first_step():
    frozen, unfrozen = PLANS
    assert frozen.stop(10) == unfrozen.start == 10
    # Each phase is one cycle; the first rises to the given rate, the second to half of it.
    assert max(frozen.rates(step)[-1] for step in range(10)) == pytest.approx(2e-3, rel=0.05)
    assert max(unfrozen.rates(step)[-1] for step in range(20)) == pytest.approx(1e-3, rel=0.05)
    assert [plan.frozen_to for plan in PLANS] == [-1, 0]
    assert [
        plan.name
        for plan in plans_of_fine_tune(2, 10, 3, 2e-3, 0, 100.0, 0.3, 5.0, 1e5, (0.95, 0.85, 0.95))
    ] == ["unfrozen"]


def test_rates_are_looked_at_before_anything_is_trained():
    with pytest.raises(ConfigError, match=r"lr = -1\.0: should be above 0 and at most 100"):
        plan_at_rate(1, -1.0, 0.9, groups=2)
    with pytest.raises(ConfigError, match=r"lr = \[0\.1, 0\.2\]: in Python this should be a rate"):
        plan_at_rate(1, [0.1, 0.2], 0.9, groups=2)
    with pytest.raises(
        ConfigError, match=r"lr: the schedule returns \[0\.1\], but should return one"
    ):
        plan_at_rate(1, lambda step: [0.1], 0.9, groups=2)
    with pytest.raises(ConfigError, match="momentum: the schedule returns None, but should"):
        plan_at_rate(1, 0.1, lambda step: None, groups=2)
    with pytest.raises(ConfigError, match=r"lr = 0\.0: should be above 0 and at most 100"):
        plan_of_one_cycle(1, 10, 2, slice(0.0, 1.0), 25.0, 1e5, 0.25, (0.95, 0.85, 0.95))
