"""After other data were set, epochs are still counted one by one and compared only with equals."""

import io
import json
import re
import subprocess
import sys
from dataclasses import replace

import flax.linen as nn
import numpy as np
import pytest
from rich.console import Console

import jaxch5 as jx
from jaxch5.config.settings import Config
from jaxch5.data.block import DataBlock
from jaxch5.data.source import from_arrays
from jaxch5.data.split import random_split
from jaxch5.errors import CheckpointError, TrainingError
from jaxch5.learner import vision_learner
from jaxch5.run.checkpoint import StoredCheckpoints
from jaxch5.run.directory import create_run, is_locked, locked
from jaxch5.run.hooks.checkpoints import Saving
from jaxch5.run.past import Past
from jaxch5.training.events import Step
from jaxch5.training.guard import are_comparable


class Tiny(nn.Module):
    """A network that is small enough to compile quickly."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3), strides=2)(x))
        return nn.Dense(2, name="head")(nn.relu(x).mean((1, 2)))


@pytest.fixture(scope="module")
def source():
    """180 pictures in two classes, the second one brighter."""
    rng = np.random.default_rng(0)
    labels = np.arange(180) % 2
    images = rng.integers(0, 156, (180, 12, 16, 3)) + 99 * labels[:, None, None, None]
    return from_arrays(images.astype(np.uint8), labels, ["dark", "bright"])


@pytest.fixture(scope="module")
def block(source):
    """120 of the pictures are for training, and 60 for validation."""
    items = np.arange(180)
    return DataBlock(source, lambda source: (items[:120], items[120:]), 12, 8, augment=None)


def learner(data, **choices):
    learn = vision_learner(data, Tiny(), "none", **choices)
    learn.console = Console(file=io.StringIO(), width=120)
    return learn


def new_run(folder):
    return create_run(Config(), folder)


def lines(run):
    return [json.loads(line) for line in run.metrics_file.read_text().splitlines()]


def test_epochs_are_counted_one_by_one_whatever_number_of_batches_they_have(block, tmp_path):
    """Also after the run was restored, which trains no epoch and validates none again."""
    learn, run = learner(block.load(batch_size=10)), new_run(tmp_path / "run")
    learn.run = run
    learn.fit(2, 1e-3)
    for batch_size in (60, 20):
        learn.data = block.load(batch_size=batch_size)
        learn.fit(2, 1e-3)
    assert [record["epoch"] for record in lines(run)] == [0, 1, 2, 3, 4, 5]
    shown = learn.console.file.getvalue()
    assert re.findall(r"^ *(\d+/\d+) ", shown, re.MULTILINE)[-2:] == ["5/6", "6/6"]
    again = learner(block.load(batch_size=20))
    again.run = run
    assert again.restore(run)
    again.fit(2, 1e-3)
    assert "this run is finished: it has 6 epochs" in again.console.file.getvalue()
    again.data = block.load(batch_size=60)
    again.fit(1, 1e-3)
    assert [record["epoch"] for record in lines(run)] == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("change", ["same", "shorter", "longer", "other"])
def test_only_data_like_its_own_continue_a_restored_run(block, source, tmp_path, change):
    """With other data, the next call trains all of its epochs; with the same data, what is left."""
    learn, run = learner(block.load(batch_size=20)), new_run(tmp_path / "run")
    learn.run = run
    learn.fit(2, 1e-3)
    again = learner(block.load(batch_size=20))
    again.run = run
    assert again.restore(run)
    batch_size = {"shorter": 60, "longer": 10}.get(change, 20)
    labels = 1 - source.labels if change == "other" else source.labels
    again.data = replace(block, source=replace(source, labels=labels)).load(batch_size=batch_size)
    again.fit(3, 1e-3)
    epochs = 1 if change == "same" else 3
    assert [record["epoch"] for record in lines(run)] == list(range(2 + epochs))
    assert len(again.recorder.losses) == epochs * len(again.data.train)
    for record, end in zip(again.records[2:], again.recorder.ends, strict=True):
        of_epoch = again.recorder.losses[end - len(again.data.train) : end]
        assert record["train_loss"] == pytest.approx(np.mean(of_epoch), rel=1e-4)


@pytest.mark.parametrize("in_run", [False, True])
def test_the_best_epoch_is_one_of_those_on_the_present_data(block, source, tmp_path, in_run):
    """A score on earlier validation pictures is neither kept nor shown beside the present ones."""
    data = block.load(batch_size=60)
    learn = learner(data)
    learn.run = new_run(tmp_path / "run") if in_run else None
    learn.saving = learn.saving._replace(keep_best=True)
    learn.fit(6, 3e-2)
    assert learn.record["accuracy"] > 0.9
    before = learn.record["accuracy"]
    wrong = replace(source, labels=1 - source.labels)
    learn.data = replace(block, source=wrong).load(batch_size=60)
    assert "accuracy" not in repr(learn)
    learn.fit(2, 1e-5)
    assert learn.record in learn.records[-2:]
    assert learn.record["accuracy"] < before
    assert learn.validate()["accuracy"] == pytest.approx(learn.record["accuracy"])
    assert f"accuracy {100 * learn.record['accuracy']:.2f} %" in repr(learn)
    if in_run:
        again = learner(learn.data)
        again.restore(learn.run)
        assert again.records[-1]["data_changes"] == 1


def test_data_stay_other_data_if_training_on_them_is_interrupted(block, source, tmp_path):
    """A run that is restored within the first epoch on other data compares only epochs on them."""
    learn = learner(block.load(batch_size=20))
    learn.run = new_run(tmp_path / "run")
    learn.saving = Saving(every_steps=1, keep_best=True)
    learn.fit(6, 3e-2)
    other = replace(block, source=replace(source, labels=1 - source.labels))

    def stop(event):
        if isinstance(event, Step) and event.number % 6 == 3:
            raise KeyboardInterrupt

    learn.data = other.load(batch_size=20)
    learn.hooks = [stop]
    with pytest.raises(KeyboardInterrupt):
        learn.fit(1, 1e-5)
    again = learner(other.load(batch_size=20))
    again.run, again.saving = learn.run, learn.saving
    again.restore(learn.run)
    again.fit(7, 1e-5)
    assert again.record == again.records[-1]
    assert again.record["data_changes"] == 1


def test_a_checkpoint_of_earlier_pictures_makes_the_present_ones_other_data(block, tmp_path):
    """As after a process was killed on other data, before it saved its first checkpoint there."""
    data, run, past = block.load(batch_size=60), new_run(tmp_path / "run"), Past()
    about = past.described(data)
    for said, changes in ((about, 0), ({}, 0), (about | {"pictures": "others"}, 1)):
        past.restore(run, said, data, [])
        assert (past.changes, past.length, past.runs) == (changes, 2, {run.path: set()})


def test_a_folder_that_is_read_again_is_comparable_but_not_with_another_reader(pictures):
    first, again = jx.from_folder(pictures), jx.from_folder(pictures)
    other = replace(again, read=lambda item: again.read(0))
    made = [DataBlock(of, random_split(), 12, 8).load(8) for of in (first, again, other)]
    assert are_comparable(made[0], made[1])
    assert not are_comparable(made[0], made[2])


def test_a_restored_learner_writes_on_in_the_restored_run_alone(block, tmp_path):
    data = block.load(batch_size=60)
    first, second = learner(data), learner(data)
    for learn in (first, second):
        learn.run = new_run(tmp_path / str(id(learn)))
        learn.fit(1, 1e-3)
    before = first.run.metrics_file.read_bytes()
    first.restore(second.run)
    with pytest.raises(TrainingError, match="has the checkpoints of another training"):
        first.fit(2, 1e-3)
    assert first.run.metrics_file.read_bytes() == before


def test_other_batches_of_the_same_pictures_are_comparable(block):
    learn = learner(block.load(batch_size=60))
    learn.fit(1, 1e-3)
    learn.data = block.load(batch_size=20)
    learn.fit(1, 1e-3)
    assert "data_changes" not in learn.records[-1]
    learn.data = replace(block, source=replace(block.source)).load(batch_size=20)
    learn.fit(1, 1e-3)
    assert "data_changes" not in learn.records[-1]
    learn.data = replace(learn.data, size=12)
    learn.fit(1, 1e-3)
    assert learn.records[-1]["data_changes"] == 1


def test_a_run_of_another_training_is_not_written_over(block, tmp_path):
    learn, run = learner(block.load(batch_size=60)), new_run(tmp_path / "run")
    learn.run = run
    learn.fit(1, 1e-3)
    before = run.metrics_file.read_bytes()
    assert learn.again(1).run is None
    for other in (learn.again(1), learner(block.load(batch_size=60))):
        other.run = run
        with pytest.raises(TrainingError, match="run: has the checkpoints of another training run"):
            other.fit(1, 1e-3)
    assert run.metrics_file.read_bytes() == before
    learn.fit(1, 1e-3)
    other.restore(run)
    other.fit(2, 1e-3)
    assert [record["epoch"] for record in lines(run)] == [0, 1]


HOLD = """
import sys; from pathlib import Path; from jaxch5.run.directory import RunDir, locked
with locked(RunDir(Path(sys.argv[1]))): print("held", flush=True); sys.stdin.read()
"""


def test_a_run_that_another_process_writes_is_read_alone(block, tmp_path):
    """A learner restores it without changing it, but does not train in it."""
    learn, run = learner(block.load(batch_size=20)), new_run(tmp_path / "run")
    learn.run, learn.saving = run, Saving(every_steps=2)
    learn.fit(1, 1e-3)
    (run.checkpoints / "6" / "about" / "metadata").write_text("{}")
    before = {file: file.stat().st_mtime_ns for file in run.path.rglob("*") if file.is_file()}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLD, run.path], **pipes) as writer:
        assert writer.stdout.readline() == "held\n"
        before[run.lock_file] = run.lock_file.stat().st_mtime_ns
        other = learner(block.load(batch_size=20))
        assert other.restore(run)
        assert int(other.state.step) == 4
        other.run = run
        with pytest.raises(CheckpointError, match=f"is being written by process {writer.pid}"):
            other.fit(1, 1e-3)
        after = {file: file.stat().st_mtime_ns for file in run.path.rglob("*") if file.is_file()}
        assert after == before
        writer.communicate("")
    other.fit(1, 1e-3)
    assert len(lines(run)) == 1


def test_a_run_is_locked_while_it_is_trained(block, tmp_path):
    """Also if the process holds the lock already, as a command does."""
    learn, run = learner(block.load(batch_size=60)), new_run(tmp_path / "run")
    learn.run, held = run, []
    learn.hooks = [lambda event: held.append(is_locked(run))]
    learn.fit(1, 1e-3)
    assert not is_locked(run)
    with locked(run):
        learn.fit(1, 1e-3)
    assert len(held) > 4
    assert all(held)


def test_what_another_process_has_trained_since_is_kept(block, tmp_path):
    """Neither the learner that trained the run before nor one that restored it continues it."""
    data, run = block.load(batch_size=60), new_run(tmp_path / "run")
    first, second, third = learner(data), learner(data), learner(data)
    first.run = second.run = third.run = run
    first.fit(1, 1e-3)
    assert second.restore(run)
    assert third.restore(run)
    third.fit(2, 1e-3)
    before = run.metrics_file.read_bytes()
    for learn in (first, second):
        with pytest.raises(TrainingError, match="run: has been trained further elsewhere; "):
            learn.fit(2, 1e-3)
    assert run.metrics_file.read_bytes() == before
    assert StoredCheckpoints(run.checkpoints).steps() == [2, 4]
    assert second.restore(run)
    second.fit(3, 1e-3)
    assert [record["epoch"] for record in lines(run)] == [0, 1, 2]


def test_later_calls_of_the_same_learner_write_on(block, tmp_path, monkeypatch):
    """They write nothing before they train, as a disk may be full, and know their own checkpoints.

    A save that ends in the background after two interrupts is one of the learner's own.
    """
    learn, run = learner(block.load(batch_size=60)), new_run(tmp_path / "run")
    learn.run = run
    learn.fit(1, 1e-3)
    learn._past.runs[run.path].clear()
    written = run.metrics_file.stat().st_ino
    seen = []
    learn.hooks = [lambda event: seen.append(run.metrics_file.stat().st_ino)]
    learn.fit(1, 1e-3)
    assert seen[0] == written
    assert [record["epoch"] for record in lines(run)] == [0, 1]


def test_class_weights_are_those_of_the_present_data(block, source):
    learn = learner(block.load(batch_size=20), class_weights="balanced")
    keep = [item for item in learn.data.train.items if source.labels[item] or item < 20]
    fewer = learn.data.parted(np.array(keep), learn.data.valid.items)
    learn.data = fewer
    assert "class weights are now those of the new data" in learn.console.file.getvalue()
    other = learner(fewer, class_weights="balanced")
    assert learn.recipe.class_weights == other.recipe.class_weights
    learn.fit(1, 1e-3)
    other.fit(1, 1e-3)
    assert learn.records[-1]["valid_loss"] == other.records[-1]["valid_loss"]
