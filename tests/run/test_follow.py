"""Training saves its state when it should, reports a save that fails, and resumes exactly."""

import io
import resource
import signal

import flax.linen as nn
import jax
import numpy as np
import pytest
from rich.console import Console

from jaxch5.config.settings import Config
from jaxch5.data.block import DataBlock
from jaxch5.data.source import from_arrays
from jaxch5.data.split import random_split
from jaxch5.errors import CheckpointError, ConfigError, DataError
from jaxch5.learner import vision_learner
from jaxch5.models.spec import Normalization
from jaxch5.run.checkpoint import Checkpoints, StoredCheckpoints
from jaxch5.run.directory import create_run
from jaxch5.run.hooks.checkpoints import Saving
from jaxch5.training.events import Step
from jaxch5.training.interrupts import StopAtOnce


class Tiny(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3))(x)).mean((1, 2))
        return nn.Dense(2)(nn.Dropout(0.1, deterministic=not train)(x))


def data_of(classes=("a", "b"), count=50):
    images = np.random.default_rng(0).integers(0, 256, (count, 12, 12, 3), dtype=np.uint8)
    source = from_arrays(images, np.arange(count) % 2, list(classes))
    return DataBlock(source, random_split(0.2), presize=12, size=8, augment=None).load(8)


@pytest.fixture(scope="module")
def compiled():
    learn = vision_learner(data_of(), Tiny())
    learn.fit(1, 0.01)
    return learn


@pytest.fixture
def learn(compiled, tmp_path):
    learn = compiled.again(0)
    learn.console = Console(file=io.StringIO(), width=300)
    learn.run = create_run(Config(), tmp_path / "run")
    return learn


def said(learn):
    return learn.console.file.getvalue()


def steps_of(run):
    saves = StoredCheckpoints(run.checkpoints)
    return saves.steps()


def bits(state):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def at_step(number, do):
    """Returns a tuple of one hook, which calls `do` after the step with the given number."""
    return (lambda event: do() if isinstance(event, Step) and event.number == number else None,)


def test_the_clock_saves_too(learn, monkeypatch):
    """If steps take longer than `every_minutes`, every step is saved, and so is the epoch's end."""
    saved = []
    save = Checkpoints.save
    monkeypatch.setattr(Checkpoints, "save", lambda *given: saved.append(given[3]) or save(*given))
    learn.saving = Saving(every_minutes=1e-9)
    learn.fit(1, 0.01)
    assert saved == [False, False, False, False, True]
    saved.clear()
    learn.saving = Saving(every_minutes=60)
    learn.fit(1, 0.01)
    assert saved == [True]


def test_an_interrupt_leaves_the_learner_at_its_last_step(learn):
    """After an interrupt, as in a notebook, the state has been saved and training can go on."""
    learn.hooks = at_step(3, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        learn.fit(2, 0.01)
    assert int(learn.state.step) == 3
    assert steps_of(learn.run) == [3]
    assert learn.validate()["accuracy"] >= 0
    learn.hooks = ()
    learn.fit(1, 0.01)
    assert len(learn.records) == 1


def test_a_second_interrupt_waits_for_nothing(learn):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    learn.hooks = at_step(3, twice)
    with pytest.raises(KeyboardInterrupt):
        learn.fit(2, 0.01)
    assert steps_of(learn.run) == []


def test_a_second_interrupt_within_a_step_leaves_the_learner_at_that_step(learn):
    (key, steps), calls = next(iter(learn._compiled.items())), []

    def train(*given):
        result = steps.train(*given)
        calls.append(given)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return result

    learn._compiled = {key: steps._replace(train=train)}
    with pytest.raises(StopAtOnce):
        learn.fit(2, 0.01)
    assert int(learn.state.step) == 3
    assert learn.validate()["accuracy"] >= 0
    learn.fit(1, 0.01)
    assert len(learn.records) == 1


def test_a_second_interrupt_does_not_wait_for_the_save_of_the_first(learn, monkeypatch):
    """Checkpoints are not closed, since closing would wait for the save that is under way."""
    closed = []
    monkeypatch.setattr(Checkpoints, "wait", lambda saves: signal.raise_signal(signal.SIGINT))
    monkeypatch.setattr(Checkpoints, "close", closed.append)
    learn.hooks = at_step(3, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(StopAtOnce):
        learn.fit(2, 0.01)
    assert not closed


def test_an_interrupt_during_validation_validates_when_taken_up(compiled, learn):
    """The resumed run has the weights and records of a run that was never interrupted."""
    whole = compiled.again(0)
    whole.fit(2, 0.01)
    learn.hooks = at_step(5, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        learn.fit(2, 0.01)
    assert (len(learn.records), steps_of(learn.run)) == (0, [5])
    again = compiled.again(0)
    assert again.restore(learn.run)
    again.run = learn.run
    again.fit(2, 0.01)
    assert bits(again.state) == bits(whole.state)
    exact = ("epoch", "train_loss", "valid_loss", "accuracy")
    for one, other in zip(again.records, whole.records, strict=True):
        assert [one[name] for name in exact] == [other[name] for name in exact]


def test_a_picture_that_vanishes_ends_training_with_its_state_saved(learn):
    def vanish():
        raise DataError("photo.jpg: No such file or directory")

    learn.hooks = at_step(7, vanish)
    with pytest.raises(DataError, match=r"photo\.jpg"):
        learn.fit(2, 0.01)
    assert steps_of(learn.run) == [5, 7]


def test_what_cannot_be_saved_is_said_each_epoch_and_raised_at_the_end(learn):
    """A limit on the size of files makes saves fail, as a full disk would; training goes on."""
    _, unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, unlimited))
        with pytest.raises(CheckpointError, match=r"could not be saved|cannot be written"):
            learn.fit(3, 0.01)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, unlimited))
        signal.signal(signal.SIGXFSZ, handler)
    assert len(learn.records) == 3
    assert said(learn).count("could not be saved") >= 2
    assert "training goes on" in said(learn)


def test_a_disk_with_room_again_ends_well(learn):
    _, unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    learn.hooks = at_step(
        12,
        lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, unlimited)),
    )
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, unlimited))
        learn.fit(4, 0.01)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, unlimited))
        signal.signal(signal.SIGXFSZ, handler)
    assert steps_of(learn.run)[-1] == 20
    assert len(learn.run.metrics_file.read_text().splitlines()) == 4


def test_a_run_of_other_classes_or_another_network_says_what_differs(learn):
    learn.fit(1, 0.01)
    other = vision_learner(data_of(classes=("a", "c")), Tiny())
    with pytest.raises(ConfigError, match=r"has classes \['a', 'b'\], not \['a', 'c'\]"):
        other.restore(learn.run)

    class Another(Tiny):
        pass

    other = vision_learner(data_of(), Another())
    with pytest.raises(ConfigError, match="has arch Tiny, not Another"):
        other.restore(learn.run)


def test_a_run_that_is_refused_leaves_the_learner_as_it_was(compiled, learn):
    """This holds whether its pictures are others, or none of its checkpoints is intact."""
    learn.normalization = Normalization((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    learn.fit(1, 0.01)
    other = compiled.again(0)
    other.fit(2, 0.02)
    before = bits(other.state), other.normalization, len(other.recorder.losses)
    data = other.data
    swapped = data.parted(data.valid.items[:8], data.train.items)
    for refuse in ("pictures", "damage"):
        if refuse == "damage":
            (learn.run.checkpoints / "5" / "rest" / "arrays.safetensors").write_bytes(b"")
        other.data = swapped if refuse == "pictures" else data
        line = "trained on other pictures" if refuse == "pictures" else "is damaged"
        with pytest.raises((ConfigError, CheckpointError), match=line):
            other.restore(learn.run)
        assert (bits(other.state), other.normalization, len(other.recorder.losses)) == before


def test_a_restored_learner_has_only_the_steps_that_follow(compiled, learn):
    """The steps of a trial before it are forgotten, as its records are."""
    learn.fit(2, 0.01)
    other = compiled.again(0)
    other.fit(3, 0.02)
    assert other.restore(learn.run)
    assert other.records == learn.records
    recorder = other.recorder
    assert [recorder.losses, recorder.lrs, recorder.moms, recorder.ends] == [[], [], [], []]
    other.fit(3, 0.01)
    training, validation = recorder.plot_loss(skip_start=0).axes[0].lines
    assert (len(training.get_xdata()), validation.get_xdata().tolist()) == (5, [5])


def test_a_restored_run_is_evaluated_with_its_own_normalization(compiled, learn):
    """A restored run uses its own normalization even if programs were compiled for another one."""
    learn.normalization = Normalization((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    learn.fit(1, 0.01)
    other = compiled.again(0)
    other.validate()
    assert other.restore(learn.run)
    source, items = other.data.source, other.data.valid.items
    alone = other.predictor().probabilities_of(source, items)
    np.testing.assert_allclose(other.get_preds()[0], alone, atol=1e-5)


def test_a_damaged_checkpoint_is_passed_over_when_a_run_is_taken_up(compiled, learn):
    learn.fit(2, 0.01)
    (learn.run.checkpoints / "10" / "about" / "metadata").write_text("{}")
    again = compiled.again(0)
    again.console = Console(file=io.StringIO(), width=300)
    assert again.restore(learn.run)
    assert int(again.state.step) == 5
    assert "checkpoints/10: is damaged" in said(again)
    again.run, counts = learn.run, []
    again.hooks = at_step(
        6, lambda: counts.append(len(learn.run.metrics_file.read_text().splitlines()))
    )
    again.fit(2, 0.01)
    assert counts == [1]
    assert bits(again.state) == bits(learn.state)
    assert steps_of(learn.run) == [5, 10]


def test_a_restored_run_that_is_finished_says_that_nothing_is_trained(compiled, learn):
    """The first call after restoring the run trains nothing; the next one trains further."""
    learn.fit(1, 0.01)
    again = compiled.again(0)
    again.console = Console(file=io.StringIO(), width=300)
    assert again.restore(learn.run)
    again.fit(1, 0.01)
    assert int(again.state.step) == 5
    assert "this run is finished: it has 1 epoch, and this call asks for 1" in said(again)
    again.fit(1, 0.01)
    assert int(again.state.step) == 10


def test_the_recorder_has_every_step(learn):
    learn.fit_one_cycle(2, 0.01)
    recorder = learn.recorder
    assert len(recorder.losses) == len(recorder.lrs) == len(recorder.moms) == 10
    assert max(max(rates) for rates in recorder.lrs) == pytest.approx(0.01, rel=0.1)
    assert recorder.ends == [5, 10]
    assert recorder.records == learn.records


def test_tensorboard_gets_the_run_where_it_is_asked_for(learn):
    learn.fit(1, 0.01)
    assert not learn.run.tensorboard.exists()
    learn.log = True
    learn.fit(1, 0.01)
    assert sum(file.stat().st_size for file in learn.run.tensorboard.iterdir()) > 500


def assert_is_of_its_record(learn):
    """Asserts that the learner's record is that of the best epoch and fits the current weights."""
    assert learn.record == learn.records[learn.recipe.task.best.of(learn.records)]
    again = learn.validate()
    assert {name: learn.record[name] for name in again} == again


@pytest.mark.parametrize("with_run", [True, False])
def test_the_weights_kept_are_of_the_record_that_is_said(compiled, learn, with_run):
    """On noise, where many epochs tie, the kept weights fit the record, also in a resumed run."""
    learn.saving = Saving(keep_best=True)
    if not with_run:
        learn.run = None
    for rate in (0.05, 1e-3):
        learn.fit(5, rate)
        assert_is_of_its_record(learn)
    assert len({record["accuracy"] for record in learn.records}) < len(learn.records)
    if with_run:
        again = compiled.again(0)
        assert again.restore(learn.run)
        again.run, again.saving = learn.run, learn.saving
        again.fit(11, 1e-3)
        assert len(again.records) == 11
        assert_is_of_its_record(again)
