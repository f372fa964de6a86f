"""Fine-tuning trains in the chapter's two phases, also when it is interrupted and resumed."""

import io
import signal

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from rich.console import Console

from jaxch5.config.settings import Config
from jaxch5.data.block import DataBlock
from jaxch5.data.source import from_arrays
from jaxch5.data.split import random_split
from jaxch5.errors import ConfigError, TrainingError
from jaxch5.learner import vision_learner
from jaxch5.losses import cross_entropy
from jaxch5.optim.schedule import fine_tune_momentum, fine_tune_schedule
from jaxch5.run.directory import create_run
from jaxch5.run.hooks.checkpoints import Saving
from jaxch5.training import loop
from jaxch5.training.events import Epoch, Ready, Step
from jaxch5.training.state import TrainState


class Body(nn.Module):
    """A body and a head, with batch norm and dropout like the real networks."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(nn.Conv(4, (3, 3), strides=2, name="conv")(x))
        x = nn.BatchNorm(use_running_average=not train, name="bn")(x).mean((1, 2))
        return nn.Dense(2, name="head")(nn.Dropout(0.1, deterministic=not train)(x))


@pytest.fixture(scope="module")
def data():
    """100 pictures in two classes, the second one brighter; an epoch has 4 batches of 16."""
    rng = np.random.default_rng(0)
    labels = np.arange(100) % 2
    images = rng.integers(0, 156, (100, 12, 16, 3)) + 99 * labels[:, None, None, None]
    source = from_arrays(images.astype(np.uint8), labels, ["dark", "bright"])
    return DataBlock(source, random_split(0.3), presize=12, size=8, augment=None).load(16)


@pytest.fixture(scope="module")
def compiled(data):
    """A learner whose `again(0)` returns an untrained learner that shares its compiled programs."""
    return learner(data)


def learner(data, seed=0, **kwargs):
    learn = vision_learner(data, Body(), seed=seed, **kwargs)
    learn.console = Console(file=io.StringIO())
    return learn


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def changed(before, after):
    before, after = flatten_dict(before), flatten_dict(after)
    return {path[0] for path in before if not np.array_equal(before[path], after[path])}


def used(monkeypatch):
    """Returns a list to which each step appends the rates and the momentum that it is given."""
    steps = []
    original = TrainState.at_rate

    def listen(state, lr, momentum):
        steps.append((np.asarray(lr).tolist(), float(momentum)))
        return original(state, lr, momentum)

    monkeypatch.setattr(TrainState, "at_rate", listen)
    return steps


def interrupted_at(number):
    """A hook that interrupts training after a step."""

    def interrupt(event):
        if isinstance(event, Step) and event.number == number:
            signal.raise_signal(signal.SIGINT)

    return interrupt


def test_every_step_has_the_rates_and_the_momentum_of_the_schedule(compiled, monkeypatch):
    """Each step of `fine_tune` is given the rates and the momentum of the schedule.

    `tests/optim/test_schedule.py` compares the schedule with fastai's.
    """
    learn = compiled.again(0)
    steps = used(monkeypatch)
    learn.fine_tune(2, base_lr=4e-3, freeze_epochs=1, lr_mult=10, pct_start=0.4, div=8)
    rates = fine_tune_schedule(2, 4, 4e-3, 1, 2, lr_mult=10, pct_start=0.4, div=8)
    np.testing.assert_allclose([rates for rates, _ in steps], rates, rtol=1e-6)
    momentum = fine_tune_momentum(2, 4, 1, pct_start=0.4)
    np.testing.assert_allclose([momentum for _, momentum in steps], momentum, rtol=1e-6)


def test_the_body_is_frozen_first_and_then_trains(compiled):
    learn = compiled.again(0)
    states = []

    def remember(event):
        if isinstance(event, (Ready, Epoch)):
            states.append(jax.tree.map(np.array, learn.state.params))

    learn.hooks = (remember,)
    learn.fine_tune(2, base_lr=0.1, freeze_epochs=1, lr_mult=2)
    assert changed(states[0], states[1]) == {"head", "bn"}
    assert changed(states[2], states[4]) == {"head", "bn", "conv"}
    assert [record["phase"] for record in learn.records] == ["frozen", "unfrozen", "unfrozen"]
    assert [record["epoch"] for record in learn.records] == [0, 1, 2]
    assert learn.records[-1]["accuracy"] > 0.9


def test_both_phases_have_one_evaluation(compiled):
    """Freezing changes neither the compiled evaluation nor its results."""
    learn = compiled.again(0)
    learn.freeze()
    frozen, evaluate = learn.validate(), learn._steps.evaluate
    learn.unfreeze()
    assert learn._steps.evaluate is evaluate
    assert learn.validate() == frozen


def test_a_random_body_is_not_frozen(compiled, tmp_path):
    """Without pretrained weights, `fine_tune` trains all layers in one cycle, and says so.

    If such a run is interrupted and resumed, it ends with the same weights. Once the network has
    been trained, `fine_tune` freezes its body first, as usual.
    """
    one, other = compiled.again(0), compiled.again(0)
    one.console = Console(file=(said := io.StringIO()))
    one.fine_tune(2, base_lr=0.05)
    other.fit_one_cycle(2, 0.05)
    assert said.getvalue().startswith("nothing is pretrained: all layers train in one cycle")
    assert bits(one.state) == bits(other.state)
    one.fine_tune(1, base_lr=0.05)  # by now the body has been trained
    assert [record["phase"] for record in one.records[2:]] == ["frozen", "unfrozen"]

    stopped = compiled.again(0)
    stopped.run = create_run(Config(), tmp_path / "run")
    stopped.hooks = (interrupted_at(6),)
    with pytest.raises(KeyboardInterrupt):
        stopped.fine_tune(2, base_lr=0.05)
    resumed = compiled.again(0)
    assert resumed.restore(stopped.run)
    resumed.fine_tune(2, base_lr=0.05)
    assert bits(resumed.state) == bits(other.state)


def test_a_body_that_no_epoch_has_trained_is_not_frozen(compiled):
    """As when a cell is interrupted in its first epoch, and run again."""
    learn = compiled.again(0)
    learn.hooks = (interrupted_at(3),)
    with pytest.raises(KeyboardInterrupt):
        learn.fine_tune(2, base_lr=0.05)
    learn.hooks = ()
    learn.fine_tune(2, base_lr=0.05)
    assert [record["phase"] for record in learn.records] == ["one_cycle"] * 2


def test_layer_decay_reaches_every_step_of_every_way_to_train(data, monkeypatch):
    """With two stages and `layer_decay = 0.5`, each step gives the body half of the head's rate.

    This holds for every way to train, and for the steps of `lr_find` too.
    """
    learn = learner(data, layer_decay=0.5)
    assert learn.recipe.grouping == "stages"
    learn.summary()
    assert "rates: head 1, body 0.5 of the learning rate" in learn.console.file.getvalue()
    before = jax.tree.map(np.array, learn.state.params)
    learn.freeze()
    steps = used(monkeypatch)
    learn.fit(1, lambda step: 1e-3 * (step + 1))
    assert "conv" not in changed(before, learn.state.params)
    learn.fit(1, 1e-3)
    learn.fit_one_cycle(1, 1e-3)
    learn.fine_tune(1, 1e-3)
    learn.lr_find(num_it=14)
    rates = np.array([rates for rates, _ in steps], np.float32)
    assert len(rates) > 20
    np.testing.assert_allclose(rates[:, 0], rates[:, 1] / 2, rtol=1e-6)
    with pytest.raises(
        ConfigError, match=r"layer_decay = 0\.5: only works with a single rate, not slice"
    ):
        learn.fit_one_cycle(1, slice(1e-4, 1e-3))
    with pytest.raises(ConfigError, match=r"layer_decay = 1\.5: should be above 0 and at most 1"):
        learner(data, layer_decay=1.5)


@pytest.mark.parametrize("change", ["freeze", "unfreeze"])
def test_freezing_and_unfreezing_clear_the_moments(change, compiled):
    learn = compiled.again(0)
    learn.fit(1, 0.01)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(learn.state.opt_state)[3:])
    getattr(learn, change)()
    moments = learn.state.opt_state.inner_state
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(moments))
    with pytest.raises(ConfigError, match="freeze_to = 2: there is no such group"):
        learn.freeze_to(2)


@pytest.mark.parametrize("stop_at", [2, 4, 7, 8])
def test_a_run_taken_up_in_any_phase_ends_the_same(compiled, tmp_path, stop_at):
    """A run that is interrupted and then resumed ends with the same weights and losses.

    It is interrupted within the frozen phase, between the phases, and within and at the end of the
    second phase.
    """

    def run(name):
        learn = compiled.again(0)
        learn.run = create_run(Config(), tmp_path / name)
        return learn

    whole = run("whole")
    whole.fine_tune(2, base_lr=0.05, freeze_epochs=1)

    stopped = run("stopped")

    def interrupt(event):
        if isinstance(event, Step) and event.number == stop_at:
            signal.raise_signal(signal.SIGINT)

    stopped.hooks = (interrupt,)
    with pytest.raises(KeyboardInterrupt):
        stopped.fine_tune(2, base_lr=0.05, freeze_epochs=1)

    again = compiled.again(0)
    assert again.restore(stopped.run)
    assert int(again.state.step) == stop_at
    again.run = stopped.run
    again.fine_tune(2, base_lr=0.05, freeze_epochs=1)
    assert bits(again.state) == bits(whole.state)
    losses = [[record["train_loss"] for record in each.records] for each in (again, whole)]
    assert losses[0] == losses[1]


def test_training_twice_goes_on_and_does_not_end_at_once(compiled):
    learn = compiled.again(0)
    learn.fit_one_cycle(1, 0.01)
    once = bits(learn.state.params)
    learn.fit_one_cycle(2, 0.01)
    assert [record["epoch"] for record in learn.records] == [0, 1, 2]
    assert bits(learn.state.params) != once


def test_a_slice_gives_each_group_its_rate(compiled, monkeypatch):
    learn = compiled.again(0)
    steps = used(monkeypatch)
    learn.fit_one_cycle(1, slice(1e-4, 1e-2))
    for rates, _ in steps:
        assert rates[1] / rates[0] == pytest.approx(100, rel=1e-5)
    learn.fit(1, slice(1e-3))
    np.testing.assert_allclose(steps[-1][0], [1e-4, 1e-3], rtol=1e-6)
    learn.fit(1, lambda step: 0.1 * step, momentum=0.5)
    np.testing.assert_allclose(steps[-1][0], [0.3, 0.3], rtol=1e-6)
    assert steps[-1][1] == 0.5


def test_again_is_a_learner_from_another_seed_that_compiles_nothing(data):
    learn = learner(data)
    learn.fit(1, 0.01)
    programs = len(learn._compiled)
    others = [learn.again(seed) for seed in (0, 1)]
    for other in others:
        other.fit(1, 0.01)
    assert bits(others[0].state) == bits(learn.state)
    assert bits(others[1].state) != bits(learn.state)
    assert len(learn._compiled) == programs == 1
    assert bits(learner(data.with_seed(1), seed=1).state) != bits(learn.again(0).state)


@pytest.mark.parametrize("name", ["adamw", "lamb", "sgd"])
def test_every_optimizer_learns(data, name):
    learn = learner(data, optimizer=name, clip=1.0)
    learn.fit_one_cycle(6, 0.1 if name == "sgd" else 0.03)
    assert learn.records[-1]["accuracy"] > 0.9


def test_accumulated_batches_make_one_update(data):
    learn = learner(data, accumulate=2)
    first, seen = bits(learn.state.params), []
    events = loop.fit(
        learn.state,
        data,
        loop.Plan("fit", 1, lambda step: [0.01, 0.01], lambda step: 0.9),
        learn._steps,
        cross_entropy,
        learn._key,
    )
    for event in events:
        if isinstance(event, loop.Step):
            seen.append(bits(event.state.params))
    assert seen[0] == first
    assert seen[1] != first
    assert seen[1] == seen[2]


def test_an_average_of_the_weights_is_what_is_evaluated(data, compiled):
    learn = learner(data, average=0.9)
    learn.fit(2, 0.01)
    state = learn.state
    assert bits(state.variables["params"]) == bits(state.average["params"])
    assert bits(state.average["params"]) != bits(state.params)
    plain = compiled.again(0)
    plain.fit(2, 0.01)
    assert bits(plain.state.params) == bits(state.params)
    assert learn.validate()["valid_loss"] != plain.validate()["valid_loss"]


@pytest.mark.parametrize("in_a_run", [False, True])
def test_the_best_epoch_is_kept_where_asked(compiled, tmp_path, in_a_run):
    """With `keep_best`, the learner ends with the weights of its best epoch.

    The last epochs of this test have a negative rate, which makes the network worse.
    """
    learn = compiled.again(0)
    learn.saving = Saving(keep_best=True)
    if in_a_run:
        learn.run = create_run(Config(), tmp_path / "run")
    learn.fit(6, lambda step: 0.02 if step < 16 else -1.0)
    accuracies = [record["accuracy"] for record in learn.records]
    assert max(accuracies) > accuracies[-1]
    assert learn.validate()["accuracy"] == max(accuracies) == learn.record["accuracy"]


def test_three_losses_that_are_no_number_stop_the_run(compiled, tmp_path):
    """Three losses in a row that are not finite numbers end the run with an error.

    The error names the steps and the rate; the last checkpoint is from before those steps.
    """
    learn = compiled.again(0)
    learn.run = create_run(Config(), tmp_path / "run")
    learn.saving = Saving(every_steps=1)
    with pytest.raises(TrainingError) as raised:
        learn.fit(5, lambda step: 0.01 if step < 8 else float("nan"))
    line = str(raised.value)
    assert "the loss of steps 10 to 12 is nan" in line
    assert "at a learning rate of nan" in line
    assert f"the last checkpoint is {tmp_path}/run/checkpoints/8" in line
    fresh = compiled.again(0)
    assert fresh.restore(learn.run)
    assert int(fresh.state.step) == 8
    assert np.isfinite(fresh.validate()["valid_loss"])


def test_metrics_by_name_or_as_functions_are_recorded_and_shown(data):
    def hits(probabilities, labels):
        return float((probabilities.argmax(axis=1) == labels).sum())

    output = io.StringIO()
    learn = learner(data, metrics=("accuracy", "recall", hits))
    learn.console = Console(file=output)
    learn.fit(1, 0.01)
    record = learn.records[-1]
    assert record["hits"] == round(30 * record["accuracy"])
    assert 0 <= record["recall"] <= 1
    head, row = output.getvalue().splitlines()
    assert head.split()[-2:] == ["recall", "hits"]
    assert row.split()[-2:] == [f"{record['recall']:.4f}", f"{record['hits']:.4f}"]
    assert learn.validate() == {key: record[key] for key in learn.validate()}
    with pytest.raises(ConfigError, match="accurracy"):
        learner(data, metrics=("accurracy",))
