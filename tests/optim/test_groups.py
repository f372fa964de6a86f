"""Groups of layers are fastai's, and exactly the parameters that should be frozen are frozen."""

import json
import math
from collections import namedtuple
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax.traverse_util import flatten_dict

from jaxch5.errors import ConfigError
from jaxch5.models.registry import create_model, spec_of
from jaxch5.optim.groups import (
    even_mults,
    frozen_paths,
    group_rates,
    labels,
    merge,
    partition,
)
from jaxch5.training.freezing import layer_groups

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())


@pytest.fixture(scope="module")
def variables():
    init = partial(create_model("resnet18", 3, "concat_pool").init, train=False)
    return jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


@pytest.fixture(scope="module")
def params(variables):
    return variables["params"]


def test_fastais_groups_split_a_resnet_before_layer3_and_before_the_head(params):
    """The groups are those that fastai 2.8.12's `default_split` makes of a ResNet.

    These are the first six children, the rest of the body, and the head.
    """
    groups = layer_groups("fastai", spec_of("resnet18"), params)
    of = {path[0]: group for path, group in flatten_dict(labels(params, groups)).items()}
    assert {name for name, group in of.items() if group == 0} == {
        *("conv1", "bn1", "layer1_0", "layer1_1", "layer2_0", "layer2_1")
    }
    assert {name for name, group in of.items() if group == 2} == {"head"}
    assert groups.names == ("stem to layer2", "layer3 and layer4", "head")


def test_stages_are_six(params):
    groups = layer_groups("stages", spec_of("resnet18"), params)
    assert groups.names == ("stem", "layer1", "layer2", "layer3", "layer4", "head")
    of = {path[0]: group for path, group in flatten_dict(labels(params, groups)).items()}
    assert of == {
        **dict.fromkeys(["conv1", "bn1"], 0),
        **{f"layer{layer}_{block}": layer for layer in (1, 2, 3, 4) for block in (0, 1)},
        "head": 5,
    }


def test_any_other_network_has_its_body_and_its_head():
    own = spec_of(nn.Dense(3))
    assert layer_groups("fastai", own, {"Dense_0": {}, "head": {}}).names == ("body", "head")
    assert layer_groups("fastai", own, {"Dense_0": {}, "Dense_1": {}}).names == ("all",)
    with pytest.raises(ConfigError, match=r"model\.groups = halves: should be one of fastai"):
        layer_groups("halves", own, {"head": {}})


def test_a_module_by_the_names_of_a_resnets_has_its_groups():
    modules = ["conv1", "layer1_0", "layer2_0", "layer3_0", "layer4_0", "head"]
    groups = layer_groups("fastai", spec_of(nn.Dense(3), modules), modules)
    assert groups.names == ("stem to layer2", "layer3 and layer4", "head")
    # One whose last layer has another name is a network like any other.
    modules[-1] = "fc"
    spec = spec_of(nn.Dense(3), modules)
    assert layer_groups("fastai", spec, modules).names == ("all",)


def test_batch_norms_of_frozen_groups_train_only_where_asked(variables, params):
    groups = layer_groups("fastai", spec_of("resnet18"), params)
    body = {path for path in flatten_dict(params) if path[0] != "head"}
    norms = {path for path in body if path[-2].startswith(("bn", "downsample_1"))}
    assert frozen_paths(variables, groups, 2, train_bn=False) == body
    assert frozen_paths(variables, groups, 2, train_bn=True) == body - norms
    assert frozen_paths(variables, groups, 0) == frozenset()
    assert len(norms) == 2 * 20


def test_parting_and_merging_give_the_tree_back(variables, params):
    frozen = frozen_paths(variables, layer_groups("fastai", spec_of("resnet18"), params), 1)
    trained, fixed = partition(params, frozen)
    assert set(flatten_dict(fixed)) == frozen
    assert not frozen & set(flatten_dict(trained))
    assert merge(trained, fixed) == params


@pytest.mark.parametrize("case", GOLDEN["even_mults"], ids=lambda case: f"{case['n']} rates")
def test_even_mults_are_fastais(case):
    assert even_mults(case["start"], case["stop"], case["n"]) == pytest.approx(
        case["values"], rel=1e-9
    )


def test_a_rate_or_a_slice_gives_each_group_its_own():
    assert group_rates(0.1, 3) == [0.1, 0.1, 0.1]
    assert group_rates(slice(0.1), 3) == pytest.approx([0.01, 0.01, 0.1])
    assert group_rates(slice(1e-4, 1e-2), 3) == pytest.approx([1e-4, 1e-3, 1e-2])
    assert group_rates(slice(1e-4, 1e-2), 1) == [1e-2]
    for wrong in (0.0, -1.0, slice(None), slice(0.0, 1.0), slice(-1.0)):
        with pytest.raises(ConfigError, match="lr = "):
            group_rates(wrong, 2)


Suggested = namedtuple("Suggested", "valley")(1e-3)
REFUSED = [
    (lambda: group_rates(math.inf, 2), "lr = inf: should be above 0 and at most 100"),
    (
        lambda: group_rates([1e-4, 1e-3], 2),
        r"lr = \[0.0001, 0.001\]: in Python this should be a rate",
    ),
    (lambda: group_rates(Suggested, 2), "lr = Suggested.*: in Python this should be a rate"),
    (
        lambda: group_rates(slice(Suggested), 2),
        "lr = Suggested.*: in Python this should be one rate",
    ),
    (lambda: group_rates(slice(-1.0, 1.0), 1), "lr = -1.0: should be above 0 and at most 100"),
    (lambda: group_rates(slice(1e-5, 1e-4, 1e-3), 3), "lr = slice.*: should be slice.last. or "),
    (lambda: group_rates(1.0, 20, 1e-30), "lr = 0.0: should be above 0 and at most 100"),
]


@pytest.mark.parametrize(("make", "line"), REFUSED, ids=[line[:20] for _, line in REFUSED])
def test_values_that_give_no_rates_are_refused(make, line):
    with pytest.raises(ConfigError, match=f"^{line}"):
        make()
