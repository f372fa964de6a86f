"""Training changes the weights or raises an error that says why not; a NaN is never a score."""

import io
import json
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from jaxch5.config.settings import Config
from jaxch5.data.block import DataBlock
from jaxch5.data.source import from_arrays
from jaxch5.data.split import random_split
from jaxch5.errors import ConfigError, Jaxch5Error, TrainingError
from jaxch5.learner import vision_learner
from jaxch5.losses import cross_entropy
from jaxch5.metrics import FIELDS
from jaxch5.optim.optimizer import with_hyperparams
from jaxch5.run.directory import create_run

BATCHES = 6


class Tiny(nn.Module):
    """A network whose outputs are NaN for pictures brighter than `bright`."""

    bright: float = math.inf

    @nn.compact
    def __call__(self, x, train):
        x = x.mean((1, 2))
        logits = nn.Dense(2, name="head")(nn.Dense(3, name="body")(x))
        return jnp.where(x.mean(1, keepdims=True) > self.bright, jnp.nan, logits)


def data_of(bright=(), batch_size=4):
    """Returns grey noise; the validation pictures at the positions in `bright` are white."""
    images = np.random.default_rng(0).integers(0, 200, (32, 8, 8, 3), dtype=np.uint8)
    source = from_arrays(images, np.arange(32) % 2, ["a", "b"])
    _, valid = random_split(0.25)(source)
    images[valid[list(bright)]] = 255
    return DataBlock(source, random_split(0.25), presize=8, size=8, augment=None).load(batch_size)


def learner(model=None, bright=(), **settings):
    learn = vision_learner(data_of(bright), model or Tiny(), **settings)
    learn.console = Console(file=io.StringIO(), width=300)
    return learn


def said(learn):
    return learn.console.file.getvalue()


CALLS = {
    "fit": lambda learn, epochs: learn.fit(epochs, 0.1),
    "schedule": lambda learn, epochs: learn.fit(epochs, lambda step: 0.1),
    "one cycle": lambda learn, epochs: learn.fit_one_cycle(epochs, 0.1),
    "fine tune": lambda learn, epochs: learn.fine_tune(epochs, 0.1, freeze_epochs=1),
    "without frozen": lambda learn, epochs: learn.fine_tune(epochs, 0.1, freeze_epochs=0),
}
NO_RATE = f"^lr: none of the {BATCHES} steps has a rate above 0$"
# Calls that cannot train, each with the message of its error.
WRONG = {
    "a schedule of 0": (lambda learn: learn.fit(1, lambda step: 0.0), NO_RATE),
    "a rate of 0": (lambda learn: learn.fit(1, 0.0), r"^lr = 0\.0: should be above 0 "),
    "a negative rate": (lambda learn: learn.fit(1, lambda step: -0.1), NO_RATE),
    "a rate that is not a number": (lambda learn: learn.fit(1, lambda step: math.nan), NO_RATE),
    "a momentum of 1": (lambda learn: learn.fit(1, 0.1, momentum=1.0), r"^momentum = 1\.0: "),
    "a negative number of frozen epochs": (
        lambda learn: learn.fine_tune(1, freeze_epochs=-1),
        "^freeze_epochs = -1: should be a whole number, at least 0 and ",
    ),
    "half an epoch": (lambda learn: learn.fit_one_cycle(0.5), r"^epochs = 0\.5: "),
}


@pytest.mark.parametrize("accumulate", [1, 4, BATCHES, 16, 1000])
def test_a_call_that_returns_has_trained(accumulate):
    learn = learner(accumulate=accumulate)
    for call in CALLS.values():
        again = learn.again(0)
        before = jax.device_get(again.state.params)
        call(again, 1)
        for one, other in zip(*map(jax.tree.leaves, (before, again.state.params)), strict=True):
            assert not np.array_equal(one, other)


@pytest.mark.parametrize("epochs", [0, -1])
@pytest.mark.parametrize("call", CALLS)
def test_a_call_without_an_epoch_is_refused(call, epochs):
    learn = learner()
    with pytest.raises(ConfigError, match=f"epochs = {epochs}: should be a whole number"):
        CALLS[call](learn, epochs)
    assert int(learn.state.step) == 0


@pytest.mark.parametrize("call", WRONG)
def test_what_would_teach_nothing_is_refused(call):
    learn = learner()
    teach, line = WRONG[call]
    with pytest.raises(ConfigError, match=line):
        teach(learn)
    assert int(learn.state.step) == 0


@pytest.mark.parametrize(("accumulate", "updates"), [(1, 6), (4, 2), (6, 1), (16, 1)])
def test_what_is_left_of_an_epoch_makes_an_update(accumulate, updates):
    learn = learner(accumulate=accumulate, optimizer="sgd", wd=0.0)
    rated = with_hyperparams(learn.state.opt_state, lr=jnp.full(2, 0.1), momentum=jnp.float32(0))
    steps, state = learn._steps, learn.state.replace(opt_state=rated)
    changes = []
    for epoch in range(2):
        for batch in learn.data.train.epoch(epoch):
            before = jax.device_get(state.params)
            state, _ = steps.train(state, batch, learn._key)
            after = jax.device_get(state.params)
            changes.append(not np.array_equal(before["head"]["bias"], after["head"]["bias"]))
    assert changes[:BATCHES] == changes[BATCHES:]
    assert sum(changes[:BATCHES]) == updates
    assert changes[BATCHES - 1]


@pytest.mark.float16
def test_an_epoch_of_which_a_step_was_skipped_still_makes_its_update():
    """An epoch in which only some steps are skipped still updates the weights.

    The loss scale with which float16 begins is often too large, so the first steps are skipped.
    """

    def loss(logits, labels):
        return 1000 * cross_entropy(logits.astype(jnp.float16).astype(jnp.float32), labels)

    learn = learner(accumulate=16, precision="fp16", loss=loss)
    before = jax.device_get(learn.state.params["head"]["bias"])
    learn.fit(2, 0.1)
    first, second = (record["skipped_steps"] for record in learn.records)
    assert first == BATCHES
    assert 1 <= second < BATCHES
    assert math.isnan(learn.records[0]["train_loss"])
    assert learn.records[1]["train_loss"] > 0
    assert not np.array_equal(before, learn.state.params["head"]["bias"])


def test_a_network_of_which_nothing_would_train_is_refused():
    class Fixed(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return x.mean((1, 2))[:, :2]

    with pytest.raises(ConfigError, match="leaves Fixed no parameters to train"):
        learner(Fixed())


def without_gradient(logits, labels):
    """Returns a loss that is finite, but whose gradient is NaN."""
    return cross_entropy(logits, labels) + jnp.sum(jnp.sqrt(0 * logits))


@pytest.mark.float16
def test_steps_that_are_all_skipped_are_no_training(tmp_path):
    """Training whose steps are all skipped raises an error, and does not run many epochs first.

    Each skipped step halves the loss scale. After three such epochs it is below 1, and cannot fall
    to a value that would work.
    """
    learn = learner(precision="fp16", loss=without_gradient)
    learn.run = create_run(Config(), tmp_path / "run")
    with pytest.raises(TrainingError, match="nothing was learned; try --model"):
        learn.fit(1, 0.1)
    (record,) = learn.records
    assert math.isnan(record["train_loss"])
    assert record["skipped_steps"] == BATCHES
    row = next(line for line in said(learn).splitlines() if line.split()[0] == "1/1")
    assert row.split()[1] == "\N{EN DASH}"
    assert "epoch 1 trained nothing: every step was skipped" in said(learn)
    with pytest.raises(TrainingError, match="every step was skipped"):
        learn.fit(9, 0.1)
    assert len(learn.records) < 5


@pytest.mark.parametrize("bright", [(), (0,), (1, 4), tuple(range(8))])
def test_pictures_without_an_answer_are_not_scored_as_the_first_class(bright, tmp_path):
    learn = learner(Tiny(1.5), bright, metrics=("top_2", "f1"))
    learn.run = create_run(Config(), tmp_path / "run")
    learn.fit(1, 0.1)
    scores = learn.validate()
    for name in ("accuracy", "error_rate", "valid_loss", "top_2", "f1"):
        assert math.isnan(scores[name]) == bool(bright)
        assert math.isnan(learn.record[name]) == bool(bright)
    assert scores.get("unanswered", 0) == len(bright)
    line = f"outputs are not finite for {len(bright)} of the validation pictures"
    assert (line in said(learn)) == bool(bright)
    if bright:
        with pytest.raises(ConfigError, match="probabilities are not finite for"):
            learn.interpret()
    (row,) = (line for line in said(learn).splitlines() if line.split()[0] == "1/1")
    assert row.split().count("\N{EN DASH}") == (5 if bright else 0)
    # The report can be written, and the lines of `metrics.jsonl` are valid JSON.
    assert learn.run.report_file.exists()
    (line,) = learn.run.metrics_file.read_text().splitlines()
    assert json.loads(line)["epoch"] == 0


def test_a_loss_that_never_was_a_number_is_not_the_rates_fault():
    learn = learner(loss=lambda logits, labels: cross_entropy(logits, labels) * jnp.nan)
    with pytest.raises(TrainingError, match="was never finite, which no learning rate can fix"):
        learn.fit(1, 0.1)
    with pytest.raises(TrainingError, match="is nan before anything was learned"):
        learn.lr_find()


def growing(logits, labels):
    return jnp.exp(jnp.mean(logits**2))


def test_a_loss_that_grew_is_the_rates_fault():
    learn = learner(loss=growing, optimizer="sgd")
    with pytest.raises(TrainingError, match=r"lower it \(--fit.lr\)"):
        learn.fit(3, 100.0)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_learner_whose_loss_grew_still_answers_and_says_how_to_go_on(batch_size, tmp_path):
    """Its weights are those after the last step, and a lower rate alone would not change them.

    With 24 steps per epoch, the losses are read at the eighth step, and with 6 at the epoch's end.
    """
    learn = learner(loss=growing, optimizer="sgd")
    learn.data = data_of(batch_size=batch_size)
    learn.run = create_run(Config(), tmp_path / "run")
    learn.fit(1, 1e-3)
    with pytest.raises(TrainingError, match=r"lower it \(--fit.lr\)"):
        learn.fit(1, 100.0)
    assert not np.isfinite(jax.device_get(learn.state.params)["head"]["bias"]).all()
    assert learn.validate()["unanswered"] == 8
    with pytest.raises(TrainingError, match=r"learn\.again\(seed\), .* learn\.restore\(run\)$"):
        learn.fit(3, 1e-3)
    again = learn.again(0)
    again.fit(1, 1e-3)
    assert learn.restore(learn.run)
    learn.fit(2, 1e-3)
    for one in (again, learn):
        assert math.isfinite(one.records[-1]["valid_loss"])


@pytest.mark.parametrize("num_it", [0, 1, 5, 13])
def test_a_sweep_of_too_few_steps_did_not_explode(num_it):
    with pytest.raises(ConfigError, match=f"num_it = {num_it}: should be at least 14"):
        learner().lr_find(num_it=num_it)


def test_errors_are_one_line():
    for call, _ in WRONG.values():
        with pytest.raises(Jaxch5Error) as caught:
            call(learner())
        assert "\n" not in str(caught.value)


def confidence(probabilities, labels):
    return np.mean(probabilities.max(axis=1))


def wrong(probabilities, labels):
    return jnp.sum(probabilities.argmax(axis=1) != labels)


def test_a_run_keeps_a_metric_that_returns_the_scalar_of_a_library(tmp_path):
    learn = learner(metrics=(confidence, wrong))
    learn.run = create_run(Config(), tmp_path / "run")
    learn.fit(1, 0.1)
    (line,) = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert 0.5 <= record["confidence"] <= 1
    assert record["wrong"] == 8 * record["error_rate"]
    assert "could not be saved" not in said(learn)
    assert any((tmp_path / "run" / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("bright", "settings"),
    [((), {}), ((1,), {}), pytest.param((), {"precision": "fp16"}, marks=pytest.mark.float16)],
    ids=["finite", "not finite", "float16"],
)
def test_the_names_of_all_that_an_epoch_records_are_known(bright, settings):
    """A metric may have any name that is not in `FIELDS` without replacing another number."""
    learn = learner(Tiny(1.5), bright, **settings)
    learn.fit(1, 0.1)
    assert set(learn.records[0]) - set(learn.recipe.task.scores()) <= set(FIELDS)
