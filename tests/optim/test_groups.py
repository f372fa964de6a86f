"""Groups of layers are fastai's, and exactly the parameters that should be frozen are frozen."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax.traverse_util import flatten_dict

from jaxch5.errors import ConfigError
from jaxch5.models.registry import create_model, spec_of
from jaxch5.optim.groups import frozen_paths, labels, merge, partition
from jaxch5.training.freezing import layer_groups


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
    assert set(flatten_dict(labels(params, groups)).values()) == set(range(6))


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
