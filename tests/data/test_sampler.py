"""Samplers are pure, draw each class as often as asked, and agree on any number of hosts."""

import dataclasses
import io
import itertools
import shutil
from functools import partial

import flax.linen as nn
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from jaxch5.augmentation.policy import aug_transforms, augment
from jaxch5.cli import Options, parse
from jaxch5.config.building import load_data
from jaxch5.config.settings import Config
from jaxch5.data.block import DataBlock
from jaxch5.data.canvases import Canvases
from jaxch5.data.pipeline import Loader
from jaxch5.data.sampler import (
    SAMPLERS as NAMED,
)
from jaxch5.data.sampler import (
    balanced,
    repeated,
    sequential,
    shuffled,
)
from jaxch5.data.source import from_arrays
from jaxch5.data.split import random_split
from jaxch5.errors import ConfigError, DataError
from jaxch5.learner import vision_learner
from jaxch5.run.directory import create_run
from jaxch5.run.hooks.checkpoints import Saving
from jaxch5.util.text import described

LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=60).map(np.array)
SEEDS = st.integers(0, 2**32 - 1)


def backwards_by_turns(labels, epoch, seed):
    """Draws all items but the last, backwards in every other epoch, as a user's sampler might."""
    return np.arange(len(labels) - 1)[:: (-1) ** epoch]


def source_of(labels):
    labels = np.asarray(labels)
    pictures = [np.full((8, 8, 3), place % 251, np.uint8) for place in range(len(labels))]
    return from_arrays(pictures, labels, [f"class {n}" for n in range(max(labels) + 1)])


def loader(labels, batch_size, seed=0, **settings):
    return Loader(
        Canvases(source_of(labels), 8, True), np.arange(len(labels)), batch_size, seed, **settings
    )


def assert_same(one, other):
    for left, right in itertools.zip_longest(one, other):
        for name in ("image", "frame", "label", "index", "mask"):
            np.testing.assert_array_equal(getattr(left, name), getattr(right, name))


@given(LABELS, st.integers(0, 100), SEEDS)
def test_shuffled_is_the_order_that_runs_have_always_had(labels, epoch, seed):
    """The order is that of PCG64, seeded with seed and epoch, so that older runs resume exactly."""
    generator = np.random.Generator(np.random.PCG64([seed, epoch]))
    expected = generator.permutation(len(labels))
    np.testing.assert_array_equal(shuffled(labels, epoch, seed), expected)


@given(LABELS, st.integers(0, 100), SEEDS, st.sampled_from([shuffled, balanced, repeated]))
def test_an_order_depends_on_its_arguments_alone(labels, epoch, seed, sampler):
    before = labels.copy()
    np.testing.assert_array_equal(sampler(labels, epoch, seed), sampler(labels, epoch, seed))
    np.testing.assert_array_equal(labels, before)


@given(LABELS, st.integers(0, 100), SEEDS)
def test_balanced_draws_classes_and_their_items_equally_often(labels, epoch, seed):
    order = balanced(labels, epoch, seed)
    assert len(order) == len(labels)
    of_class = np.bincount(labels[order])[np.unique(labels)]
    assert of_class.max() - of_class.min() <= 1
    of_item = np.bincount(order, minlength=len(labels))
    for label in np.unique(labels):
        assert np.ptp(of_item[labels == label]) <= 1


@given(LABELS, SEEDS, st.lists(st.floats(0, 9), min_size=6, max_size=6))
def test_weights_are_kept_but_for_a_draw(labels, seed, weights):
    there = np.array(weights) * (np.bincount(labels, minlength=6) > 0)
    if there.sum() == 0:
        with pytest.raises(ConfigError, match="leave no item to draw"):
            balanced(labels, 0, seed, weights)
        return
    order = balanced(labels, 0, seed, weights)
    counts = np.bincount(labels[order], minlength=6)
    assert counts.sum() == len(labels)
    assert np.all(np.abs(counts - there / there.sum() * len(labels)) < 1 + 1e-6)


def test_what_does_not_divide_is_right_on_average():
    labels = np.array([0] * 5 + [1] * 5 + [2])
    counts = sum(np.bincount(labels[balanced(labels, epoch)]) for epoch in range(300))
    np.testing.assert_allclose(counts / 300, 11 / 3, atol=0.1)


@pytest.mark.parametrize(
    "weights",
    [(1.0,), (1.0, -1.0), (1.0, float("nan")), {"a": 1, "b": 2}, "sqrt", 2.0, [[1, 2], [3, 4]]],
)
def test_weights_that_cannot_be_are_one_line(weights):
    with pytest.raises(ConfigError, match="should be 2 numbers of at least 0"):
        balanced(np.array([0, 1]), 0, 0, weights)


def test_repeated_is_the_epochs_of_the_other_one():
    labels = np.arange(7) % 2
    np.testing.assert_array_equal(
        repeated(labels, 2, 5, times=3, sampler=balanced),
        np.concatenate([balanced(labels, epoch, 5) for epoch in (6, 7, 8)]),
    )
    with pytest.raises(ConfigError, match="times = 0"):
        repeated(labels, 0, 0, times=0)


SAMPLERS = [
    shuffled,
    balanced,
    partial(balanced, weights=(1, 2, 0)),
    partial(repeated, times=3),
    backwards_by_turns,
]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=described)
@settings(deadline=None, max_examples=10)
@given(st.integers(8, 30), st.integers(1, 4), st.integers(1, 4), st.integers(0, 30))
def test_any_step_has_the_same_batch_on_any_number_of_hosts(sampler, count, rows, processes, start):
    """Batches are the same after resuming at any step, and on any number of processes.

    The rows of all processes together are the batch of a single process. Samplers other than
    `shuffled` are tested with a source in shards, such as a packed set.
    """
    labels = np.arange(count) % 3
    whole = loader(labels, min(rows * processes, 7 // processes * processes), sampler=sampler)
    stop = 2 * len(whole) + 1
    start = min(start, stop - 1)
    batches = list(whole.steps(0, stop))
    assert_same(whole.steps(start, stop), batches[start:])
    index = np.concatenate([batch.index for batch in whole.epoch(1)])
    assert len(set(index.tolist())) == len(index), "each draw has a key of its own"
    np.testing.assert_array_equal(index % count, sampler(labels, 1, 0)[: len(index)])
    if sampler is not shuffled:
        source = dataclasses.replace(whole.canvases.source, sharded=True)
        whole = Loader(Canvases(source, 8, True), whole.items, whole.batch_size, 0, (0, 1), sampler)
    parts = [whole.shared(lambda array: array, (part, processes)) for part in range(processes)]
    for batch, *of_parts in zip(batches, *(part.steps(0, stop) for part in parts), strict=True):
        for name in ("image", "index", "label"):
            together = np.concatenate([getattr(rows, name) for rows in of_parts])
            np.testing.assert_array_equal(together, getattr(batch, name))


def test_validation_is_in_order_whatever_training_draws():
    block = DataBlock(source_of([0, 1] * 8), random_split(), 8, 8, None, balanced)
    data = block.load(4)
    assert data.valid.sampler is sequential
    assert [data.with_seed(1).train.sampler, data.train.sampler] == [balanced, balanced]


def test_the_line_about_the_data_says_how_many_draws_there_are():
    def line(sampler):
        block = DataBlock(source_of([0, 1] * 8), random_split(), 8, 8, None, sampler)
        return block.load(4).describe()

    assert "draws" not in line(shuffled)
    assert "an epoch has as many draws as training pictures (balanced)" in line(balanced)
    assert "an epoch has 39 draws (repeated(times=3))" in line(partial(repeated, times=3))


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        (lambda labels, epoch, seed: [0.5], "is not a list of whole numbers"),
        (lambda labels, epoch, seed: [[0]], "is not a list of whole numbers"),
        (lambda labels, epoch, seed: np.zeros(0, int), "has 0 draws; should be at least 1"),
        (lambda labels, epoch, seed: [0, 9], "has indices from 0 to 9 into labels"),
        (lambda labels, epoch, seed: [-1, 0], "has indices from -1 to 0 into labels"),
    ],
)
def test_what_is_no_order_is_refused_before_training(order, reason):
    with pytest.raises(ConfigError, match=f"^data.sampler = <lambda>: epoch 0 {reason}"):
        loader([0, 1] * 4, 2, sampler=order)


def test_an_epoch_of_another_length_is_named():
    made = loader([0, 1] * 4, 2, sampler=lambda labels, epoch, seed: np.arange(8 - epoch))
    assert len(list(made.epoch(0))) == 4
    with pytest.raises(ConfigError, match="epoch 1 has 7 draws; should be 8, as many as epoch 0"):
        list(made.epoch(1))
    with pytest.raises(DataError, match="batch_size = 9 is more than the 8 pictures"):
        loader([0, 1] * 2, 9, sampler=repeated)


def test_the_square_root_lies_between_equal_and_as_they_are():
    """A class of 64 is drawn 4 times as often as a class of 4, not 16 times or equally often."""
    labels = np.array([0] * 64 + [1] * 4)
    drawn = [NAMED["sqrt"](labels, epoch, 0) for epoch in range(50)]
    counts = sum(np.bincount(labels[order]) for order in drawn)
    assert counts[0] / counts[1] == pytest.approx(4, rel=0.05)
    assert {len(order) for order in drawn} == {68}
    weighted = balanced(labels, 3, 5, weights=(8, 2))
    np.testing.assert_array_equal(balanced(labels, 3, 5, power=0.5), weighted)


@pytest.mark.parametrize("cache", ["memory", "device"])
def test_all_draws_of_an_item_in_an_epoch_are_augmented_differently(cache):
    """The key of each augmentation depends on the number of the draw as well as on the item."""
    ramp = np.linspace(0, 255, 144).reshape(12, 12).astype(np.uint8)
    source = from_arrays([ramp] * 24, np.array([0] * 20 + [1] * 4), ["many", "few"])
    policy = aug_transforms(max_rotate=30, p_affine=1.0, p_lighting=1.0)
    block = DataBlock(source, lambda source: (np.arange(22), np.arange(22, 24)), 12, 8, policy)
    data = dataclasses.replace(block, sampler=balanced).load(22, cache=cache)
    (batch,) = data.train
    few = np.asarray(batch.label) == 1
    drawn = np.asarray(augment(policy, batch, jax.random.key(0), 8))[few].reshape(few.sum(), -1)
    assert few.sum() == 11
    assert len(np.unique(drawn, axis=0)) == 11


class Tiny(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(2, name="head")(nn.Dropout(0.1, deterministic=not train)(x.mean((1, 2))))


@pytest.mark.parametrize("sampler", [balanced, NAMED["sqrt"], backwards_by_turns], ids=described)
def test_a_run_is_resumed_to_the_bit(sampler, tmp_path):
    """A run that is resumed within an epoch ends with the same state as an uninterrupted run.

    This includes the augmentation of items that are drawn several times in an epoch.
    """
    labels = np.array([0] * 20 + [1] * 8)
    block = DataBlock(source_of(labels), random_split(), 8, 8, sampler=sampler)
    learn = vision_learner(block.load(4), Tiny())
    other = learn.again(0)
    for each in (learn, other):
        each.console = Console(file=io.StringIO())
        each.saving = Saving(every_steps=len(learn.data.train) + 2)
    learn.run = create_run(Config(), tmp_path / "run")
    learn.fit(2, 0.1)
    last = len(learn.recorder.losses)
    shutil.rmtree(learn.run.checkpoints / str(last))
    other.run = learn.run
    assert other.restore(learn.run)
    assert int(other.state.step) % len(learn.data.train) == 2
    other.fit(2, 0.1)
    for one, two in zip(*(jax.tree.leaves(each.state) for each in (learn, other)), strict=True):
        np.testing.assert_array_equal(one, two)


def settings_of(*argv):
    return parse(Options, ["--data.presize", "8", "--data.size", "8", *argv], "test").settings()


def test_the_command_line_takes_a_name_or_an_import_path(monkeypatch):
    monkeypatch.syspath_prepend(str(__file__).rpartition("/")[0])
    data = load_data(settings_of("--data.sampler", "test_sampler:backwards_by_turns"))
    assert data.train.sampler.__name__ == "backwards_by_turns"
    np.testing.assert_array_equal(next(data.train.epoch(0)).index, np.arange(64))
    assert load_data(settings_of("--data.sampler", "balanced")).train.sampler is balanced
    for name, sampler in NAMED.items() | {("uniform", shuffled)}:
        for option in ("--data.sampler", "--data.sampling"):
            config = settings_of(option, name)
            assert load_data(config).train.sampler is sampler
            assert settings_of(f"{option}={name}") == config
    for name, reason in (
        (
            "balancd",
            "should be shuffled, balanced, sqrt or package.module:name; did you mean balanced",
        ),
        ("nowhere.to.be:found", "there is no module nowhere"),
        ("test_sampler:LABEL", "test_sampler has no LABEL; did you mean LABELS"),
    ):
        with pytest.raises(ConfigError, match=f"^data.sampler = {name}: .*{reason}"):
            load_data(settings_of("--data.sampler", name))
