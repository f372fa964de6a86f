"""Training through several sizes shows the same pictures larger from one part to the next."""

import io
import shutil
from dataclasses import replace

import flax.linen as nn
import jax
import numpy as np
import pytest
from rich.console import Console

import jaxch5 as jx
from jaxch5.cli import Options, parse
from jaxch5.config.settings import Config, from_toml
from jaxch5.data.block import DataBlock
from jaxch5.data.source import from_arrays
from jaxch5.data.split import random_split
from jaxch5.errors import ConfigError
from jaxch5.run.directory import create_run
from jaxch5.run.hooks.checkpoints import Saving
from jaxch5.training.events import Ready


class Tiny(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        return nn.Dense(2, name="head")(nn.relu(nn.Conv(4, (3, 3), name="body")(x)).mean((1, 2)))


@pytest.fixture(scope="module", params=["memory", "device"])
def data(request):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (30, 24, 24, 3), dtype=np.uint8)
    source = from_arrays(pictures, np.arange(30) % 2, ["even", "odd"])
    return DataBlock(source, random_split(), presize=24, size=20).load(8, cache=request.param)


def learner(data, **values):
    learn = jx.vision_learner(data, Tiny(), sizes=(8, (12, 10), 20), **values)
    learn.console = Console(file=io.StringIO())
    return learn


def states_of(learn):
    return jax.tree.leaves((learn.state.params, learn.state.batch_stats, learn.state.opt_state))


def test_each_part_is_trained_at_its_size_and_all_are_validated_at_the_last(data):
    """Each part has its size, and the rates are those of training at one size.

    At a constant rate, the result equals that of three separate calls, one for each size.
    """
    seen = []
    learn = learner(data, hooks=[lambda event: isinstance(event, Ready) and seen.append(event)])
    learn.fine_tune(2, freeze_epochs=1)
    parts = [(event.plan.name, event.plan.epochs, event.plan.size) for event in seen]
    assert parts == [("frozen", 1, 8), ("unfrozen", 1, (12, 10)), ("unfrozen", 1, 20)]
    rates = learn.recorder.lrs
    plain = jx.vision_learner(data, Tiny())
    plain.console = learn.console
    plain.fine_tune(2, freeze_epochs=1)
    assert rates == plain.recorder.lrs
    assert data.train.canvases is learn.data.train.canvases

    learn, by_hand = learner(data), jx.vision_learner(data, Tiny())
    by_hand.console = learn.console
    learn.fit(3, 0.1)
    for size in (8, (12, 10), 20):
        by_hand.data = replace(data, size=size)
        by_hand.fit(1, 0.1)
    assert learn.recorder.losses == by_hand.recorder.losses
    for one, other in zip(states_of(learn), states_of(by_hand), strict=True):
        np.testing.assert_array_equal(one, other)
    assert learn.records[-1]["valid_loss"] == by_hand.records[-1]["valid_loss"]
    assert learn.records[0]["valid_loss"] != by_hand.records[0]["valid_loss"]


@pytest.mark.parametrize("within", [0, 2])
def test_a_run_is_resumed_to_the_bit(data, within, tmp_path):
    """A run stopped between two sizes or within one ends with the bits of an uninterrupted run."""
    learn, other = learner(data), learner(data)
    length = len(learn.data.train)
    for each in (learn, other):
        each.saving = Saving(every_steps=2 * length + within)
    learn.run = create_run(Config(), tmp_path / "run")
    learn.fit_one_cycle(3, 0.1)
    shutil.rmtree(learn.run.checkpoints / str(3 * length))
    other.run = learn.run
    assert other.restore(learn.run)
    assert int(other.state.step) == 2 * length + within
    other.fit_one_cycle(3, 0.1)
    for one, two in zip(states_of(learn), states_of(other), strict=True):
        np.testing.assert_array_equal(one, two)


def test_sizes_that_cannot_be_are_refused(data):
    for sizes in ((8, 12), (12, 8, 20), (8, 8, 20), (0, 20), ((8, 12), (12, 8), 20)):
        with pytest.raises(ConfigError, match=r"^fit\.sizes = .*should rise to data\.size, .* 20"):
            jx.vision_learner(data, Tiny(), sizes=sizes)
    with pytest.raises(ConfigError, match=r"each size needs an epoch, but there are only 2"):
        learner(data).fit(2, 0.1)

    class Fixed(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return nn.Dense(2, name="head")(x.reshape(len(x), -1))

    with pytest.raises(ConfigError, match=r"^fit\.sizes: the weights of this network fit only one"):
        jx.vision_learner(data, Fixed(), sizes=(8, 20))


def test_data_of_another_size_are_refused_if_the_sizes_do_not_rise_to_it(data):
    learn = learner(data)
    with pytest.raises(ConfigError, match=r"^fit\.sizes = .*should rise to data\.size, .* 16"):
        learn.data = replace(data, size=16)
    assert learn.data.size == 20
    learn.data = replace(data)


def test_the_last_size_is_that_of_validation(tmp_path):
    argv = ["--data.path", "photos", "--fit.sizes", "96,128,160"]
    config = parse(Options, argv, "test").settings()
    assert (config.data.size, config.data.presize) == (160, 240)
    assert config.fit.sizes == (96, 128, 160)
    assert from_toml(create_run(config, tmp_path / "run").config_file) == config
    assert parse(Options, [*argv, "--data.size", "160"], "test").settings() == config
    argv = ["--data.path", "photos", "--fit.sizes", "112x80,160x128"]
    config = parse(Options, argv, "test").settings()
    assert (config.data.size, config.fit.sizes) == ((160, 128), ((112, 80), (160, 128)))
    assert from_toml(create_run(config, tmp_path / "rectangles").config_file) == config
    assert parse(Options, ["--data.path", "photos"], "test").settings().data.size == 128
