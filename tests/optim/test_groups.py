"""Groups of layers are fastai's, and what is frozen is exactly what should be."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from flax.traverse_util import flatten_dict

from jaxch5.errors import ConfigError
from jaxch5.models.resnet import create_model
from jaxch5.optim.groups import STAGES, frozen_paths, groups_of, labels, merge, partition


@pytest.fixture(scope="module")
def variables():
    init = partial(create_model("resnet18", 3, "concat_pool").init, train=False)
    return jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


@pytest.fixture(scope="module")
def params(variables):
    return variables["params"]


def test_fastais_groups_split_a_resnet_before_layer3_and_before_the_head(params):
    """fastai 2.8.12's `default_split` of a ResNet: the first six children, the rest, the head."""
    groups = groups_of("fastai", params)
    of = {path[0]: group for path, group in flatten_dict(labels(params, groups)).items()}
    assert {name for name, group in of.items() if group == 0} == {
        *("conv1", "bn1", "layer1_0", "layer1_1", "layer2_0", "layer2_1")
    }
    assert {name for name, group in of.items() if group == 2} == {"head"}
    assert groups.names == ("stem to layer2", "layer3 and layer4", "head")


def test_stages_are_six(params):
    groups = groups_of("stages", params)
    assert groups.names == STAGES
    assert set(flatten_dict(labels(params, groups)).values()) == set(range(6))


def test_any_other_network_has_its_body_and_its_head():
    assert groups_of("fastai", {"Dense_0": {}, "head": {}}).names == ("body", "head")
    assert groups_of("fastai", {"Dense_0": {}, "Dense_1": {}}).names == ("all",)
    with pytest.raises(ConfigError, match=r"model\.groups = halves: should be one of fastai"):
        groups_of("halves", {"head": {}})


def test_batch_norms_of_frozen_groups_train_only_where_asked(variables, params):
    groups = groups_of("fastai", params)
    body = {path for path in flatten_dict(params) if path[0] != "head"}
    norms = {path for path in body if path[-2].startswith(("bn", "downsample_1"))}
    assert frozen_paths(variables, groups, 2, train_bn=False) == body
    assert frozen_paths(variables, groups, 2, train_bn=True) == body - norms
    assert frozen_paths(variables, groups, 0) == frozenset()
    assert len(norms) == 2 * 20


def test_parting_and_merging_give_the_tree_back(variables, params):
    frozen = frozen_paths(variables, groups_of("fastai", params), 1)
    trained, fixed = partition(params, frozen)
    assert set(flatten_dict(fixed)) == frozen
    assert not frozen & set(flatten_dict(trained))
    assert merge(trained, fixed) == params
