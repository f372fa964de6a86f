"""One-cycle gives fastai's rates and momenta, step by step."""

import json
from pathlib import Path

import pytest

from jaxch5.optim.schedule import one_cycle, one_cycle_momentum

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())


@pytest.mark.parametrize("case", GOLDEN["one_cycle"], ids=lambda case: f"{case['steps']} steps")
def test_one_cycle_is_fastais(case):
    rate = one_cycle(case["lr_max"], case["steps"], case["pct_start"], case["div"])
    momentum = one_cycle_momentum(case["steps"], case["pct_start"])
    assert [rate(step) for step in case["at"]] == pytest.approx(case["lr"], rel=1e-5)
    assert [momentum(step) for step in case["at"]] == pytest.approx(case["mom"], rel=1e-5)


def test_rate_ends_at_lr_max_over_div_final():
    assert one_cycle(0.1, 10, div_final=1e3)(10) == pytest.approx(1e-4)
