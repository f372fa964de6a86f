"""Freezing layers decides what a step computes and changes, and what the optimizer keeps."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jaxch5.batch import Batch
from jaxch5.data.block import DataBlock
from jaxch5.data.source import from_arrays
from jaxch5.data.split import random_split
from jaxch5.errors import ConfigError
from jaxch5.models.layers import BatchNorm, LinearHead
from jaxch5.models.registry import spec_of
from jaxch5.models.resnet import Conv, ResNet
from jaxch5.models.spec import IMAGENET
from jaxch5.optim.groups import frozen_paths
from jaxch5.optim.optimizer import with_hyperparams
from jaxch5.task import one_vs_rest
from jaxch5.training.class_weights import weights_of_classes
from jaxch5.training.freezing import Frozen, layer_groups, summarize_model
from jaxch5.training.recipe import Recipe
from jaxch5.training.state import init_state, with_fresh_optimizer

RESNET = ResNet("resnet18", 2, "concat_pool")


class Layer(nn.Module):
    """A convolution and a batch norm."""

    @nn.compact
    def __call__(self, x, train):
        return nn.relu(BatchNorm(name="bn1")(Conv(16, 3, name="conv1")(x), train))


class Narrow(nn.Module):
    """A network whose layers are named like a ResNet's, but which compiles quickly."""

    frozen_stages: int = 0

    @nn.compact
    def __call__(self, x, train):
        x = Conv(16, 3, 2, name="conv1")(x)
        x = nn.relu(BatchNorm(name="bn1")(x, train and self.frozen_stages < 1))
        for stage in (1, 2, 3, 4):
            x = Layer(name=f"layer{stage}_0")(x, train and self.frozen_stages <= stage)
        return LinearHead(2, name="head")(x, train)


NARROW = Narrow()


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 40, 40, 3), dtype=np.uint8)
    source = from_arrays(images, np.arange(20) % 2, ["a", "b"])
    return DataBlock(source, random_split(0.2), presize=36, size=32, augment=None).load(8)


def shapes_of(model):
    init = partial(model.init, train=False)
    return jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


def frozen_of(model, shapes, frozen_to, **recipe):
    """Returns a model whose groups before `frozen_to` are frozen; `recipe` has further settings."""
    spec = spec_of(model, shapes["params"])
    groups = layer_groups("fastai", spec, shapes["params"])
    return Frozen(model, shapes, spec, groups, frozen_to, Recipe(**recipe))


def frozen_at(frozen_to, train_bn, model=NARROW):
    shapes = shapes_of(model)
    frozen = frozen_of(model, shapes, frozen_to, train_bn=train_bn)
    return frozen, init_state(
        model, frozen.recipe, 32, jax.random.key(0), frozen.optimizer, frozen.paths
    )


def after_a_step(data, frozen, state):
    rates = jnp.array([1e-3, 1e-2, 1e-1])
    state = state.replace(opt_state=with_hyperparams(state.opt_state, lr=rates))
    train_step, _ = frozen.steps(data, IMAGENET)
    batch = jax.tree.map(jnp.asarray, next(iter(data.train)))
    assert isinstance(batch, Batch)
    return state, jax.jit(train_step)(state, batch, jax.random.key(1))[0]


def changed(before, after):
    before, after = flatten_dict(before), flatten_dict(after)
    return {path for path in before if not np.array_equal(before[path], after[path])}


def test_a_frozen_body_stays_to_the_bit_with_its_statistics(data):
    """With `train_bn=False`, a step changes neither weights nor statistics of a frozen body.

    The network is a ResNet, because its own code keeps the statistics of its frozen stages.
    """
    frozen, state = frozen_at(-1, False, RESNET)
    before, after = after_a_step(data, frozen, state)
    assert {path[0] for path in changed(before.params, after.params)} == {"head"}
    assert {path[0] for path in changed(before.batch_stats, after.batch_stats)} == {"head"}
    assert frozen.frozen_to == 2


def test_batch_norms_learn_in_a_frozen_body_as_fastais_do(data):
    frozen, state = frozen_at(-1, True)
    before, after = after_a_step(data, frozen, state)
    moved = changed(before.params, after.params)
    assert not moved & frozen.paths
    assert ("bn1", "scale") in moved
    assert ("layer4_0", "bn1", "bias") in moved
    assert ("bn1", "mean") in changed(before.batch_stats, after.batch_stats)


NORMS = {
    "batch": nn.BatchNorm,
    "layer": nn.LayerNorm,
    "group": partial(nn.GroupNorm, num_groups=2),
    "instance": nn.InstanceNorm,
    "rms": nn.RMSNorm,
}


class Normed(nn.Module):
    """A network like a user's own, with a norm of any kind in its body."""

    norm: str

    @nn.compact
    def __call__(self, x, train):
        settings = {"use_running_average": not train} if self.norm == "batch" else {}
        x = NORMS[self.norm](name="norm", **settings)(nn.Conv(4, (3, 3), name="conv")(x))
        # This parameter has the name of a norm's parameter, but belongs to no norm.
        x = x * self.param("scale", nn.initializers.ones, (4,))
        return nn.Dense(2, name="head")(nn.relu(x).mean((1, 2)))


@pytest.mark.parametrize("train_bn", [True, False])
@pytest.mark.parametrize("norm", NORMS)
def test_what_is_frozen_stays_to_the_bit_but_for_batch_norms(norm, train_bn):
    """All parameters of a frozen body are frozen, except those of batch norms with `train_bn`.

    Norms of other kinds, which have no running statistics, are frozen in any case.
    """
    variables = shapes_of(Normed(norm))
    spec = spec_of(Normed(norm), variables["params"])
    groups = layer_groups("fastai", spec, variables["params"])
    frozen = frozen_paths(variables, groups, 1, train_bn)
    body = {path for path in flatten_dict(variables["params"]) if path[0] != "head"}
    of_norm = {path for path in body if path[0] == "norm"}
    assert frozen == (body - of_norm if train_bn and norm == "batch" else body)


def test_a_frozen_layer_norm_stays_in_training(data):
    model = Normed("layer")
    shapes = shapes_of(model)
    frozen = frozen_of(model, shapes, -1)
    state = init_state(model, frozen.recipe, 32, jax.random.key(0), frozen.optimizer, frozen.paths)
    state = state.replace(opt_state=with_hyperparams(state.opt_state, lr=jnp.full(2, 0.1)))
    train_step, _ = frozen.steps(data, IMAGENET)
    batch = jax.tree.map(jnp.asarray, next(iter(data.train)))
    after = jax.jit(train_step)(state, batch, jax.random.key(1))[0]
    assert {path[0] for path in changed(state.params, after.params)} == {"head"}


def test_the_optimizer_keeps_moments_of_what_trains_alone():
    _, before = frozen_at(-1, False)
    sizes = {leaf.shape for leaf in jax.tree.leaves(before.opt_state)}
    assert (3, 3, 16, 16) not in sizes
    unfrozen, _ = frozen_at(0, True)
    whole = with_fresh_optimizer(before, unfrozen.optimizer, unfrozen.paths)
    assert (3, 3, 16, 16) in {leaf.shape for leaf in jax.tree.leaves(whole.opt_state)}


def test_each_group_moves_at_its_own_rate(data):
    """Each group's parameters change by the rate of the group.

    In Adam's first step, a parameter without weight decay changes by just the learning rate.
    """
    before, after = after_a_step(data, *frozen_at(0, True))
    for path, rate in (
        (("layer1_0", "bn1", "bias"), 1e-3),
        (("layer3_0", "bn1", "bias"), 1e-2),
        (("head", "bias"), 1e-1),
    ):
        moved = np.abs(flatten_dict(after.params)[path] - flatten_dict(before.params)[path])
        assert np.median(moved) == pytest.approx(rate, rel=0.05)


def test_no_gradient_is_taken_of_a_frozen_body(data):
    """A step runs no backward pass of a frozen body, so it has less than half the operations."""

    def operations(frozen_to, train_bn):
        frozen, state = frozen_at(frozen_to, train_bn)
        train_step, _ = frozen.steps(data, IMAGENET)
        lowered = jax.jit(train_step).lower(state, data.train.shapes(), jax.random.key(1))
        return lowered.cost_analysis()["flops"]

    frozen, unfrozen = operations(-1, False), operations(0, True)
    assert frozen < 0.45 * unfrozen


def test_a_network_without_frozen_stages_cannot_do_without_train_bn():
    class Own(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            x = nn.BatchNorm(not train)(nn.Dense(3)(x.mean((1, 2))))
            return nn.Dense(2, name="head")(x)

    params = {"BatchNorm_0": {"bias": 0}, "Dense_0": {"kernel": 0}, "head": {"kernel": 0}}
    variables = {"params": params, "batch_stats": {"BatchNorm_0": {"mean": 0, "var": 0}}}
    with pytest.raises(ConfigError, match="Own has no annotated attribute frozen_stages"):
        frozen_of(Own(), variables, -1, train_bn=False)
    with pytest.raises(ConfigError, match="2: there is no such group; the groups are body, head"):
        frozen_of(Own(), variables, 2)
    # Without batch norms below the head, `train_bn` changes nothing, and so it needs nothing.
    without = {"params": params, "batch_stats": {"head": {"mean": 0, "var": 0}}}
    assert frozen_of(Own(), without, -1, train_bn=False).model == Own()


def test_the_summary_counts_what_trains():
    shapes = shapes_of(RESNET)
    groups = layer_groups("fastai", spec_of(RESNET), shapes["params"])
    frozen = frozen_of(RESNET, shapes, -1, train_bn=False)
    lines = list(summarize_model(shapes["params"], groups, frozen.paths))
    assert [line.split()[-1] for line in lines[1:]] == ["0", "0", "528,384", "528,384"]
    assert lines[-1].split()[1] == "11,704,896"


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ({"wd": -1.0}, "wd = -1.0: should be at least 0 and at most 1"),
        ({"clip": -1.0}, "clip = -1.0: should be a finite number, at least 0"),
        ({"accumulate": 0}, "accumulate = 0: should be a whole number, at least 1"),
        ({"accumulate": 1.5}, "accumulate = 1.5: should be a whole number, at least 1"),
        ({"average": 1.5}, "average = 1.5: should be at least 0 and below 1"),
        ({"average": None}, "average = None: should be at least 0 and below 1"),
        ({"devices": -1}, "devices = -1: should be a whole number, at least 0"),
        ({"drop_path": 1}, "drop_path = 1: should be at least 0 and below 1"),
        ({"layer_decay": 0}, "layer_decay = 0: should be above 0 and at most 1"),
    ],
)
def test_a_number_out_of_range_is_refused(value, line):
    with pytest.raises(ConfigError, match=f"^{line}"):
        Recipe(**value)


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ({"loss": "focal"}, "loss = focal: in Python this should be a function, as in loss=jx."),
        ({"mix": "mixup"}, "mix = mixup: in Python this should be a function, as in mix=jx.mixup"),
        (
            {"task": "sigmoid"},
            "task = sigmoid: in Python this should be a Task, as in task=jx.one_",
        ),
        ({"task": one_vs_rest}, "task = one_vs_rest: in Python this should be a Task, as in"),
        ({"loss": 2}, "loss = 2: in Python this should be a function"),
    ],
)
def test_a_name_of_the_command_line_is_refused_at_once(value, line):
    for refused in (Recipe, Recipe().replaced):
        with pytest.raises(ConfigError, match=line):
            refused(**value)


@pytest.mark.parametrize("array", [np.array, jnp.array, np.float32, list, tuple])
def test_class_weights_are_numbers_of_any_library(array):
    assert weights_of_classes(array([1, 2.5]), np.array([0, 1]), "ab") == (1.0, 2.5)


@pytest.mark.parametrize("given", [2.0, jnp.ones(1), jnp.array([1, -1]), ["1", "2"]])
def test_class_weights_that_do_not_fit_are_refused(given):
    with pytest.raises(ConfigError, match="should be 2 numbers above 0, one for each class"):
        weights_of_classes(given, np.array([0, 1]), "ab")


@pytest.mark.parametrize("classes", [["cat", "dog"], ["0", "1"], ["1", "2"]])
def test_class_weights_by_number_are_refused(classes):
    """A class may be named by a number that is not its place among the classes."""
    with pytest.raises(ConfigError, match=r"^fit\.class_weights: 0 should be the name of a class"):
        weights_of_classes(dict(enumerate([1.0, 2.0])), np.array([0, 1]), classes)
