"""A user's hook sees every event, ends training if it raises, and cannot change the results."""

import io
import json
import os
import signal
import subprocess
import sys

import flax.linen as nn
import jax
import numpy as np
import pytest
from rich.console import Console

import jaxch5 as jx
from jaxch5.config.settings import Config
from jaxch5.data.block import DataBlock
from jaxch5.data.source import from_arrays
from jaxch5.data.split import random_split
from jaxch5.learner import vision_learner
from jaxch5.run.checkpoint import StoredCheckpoints
from jaxch5.run.directory import create_run
from jaxch5.run.hooks.checkpoints import Saving


class Tiny(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train, name="bn")(nn.Conv(4, (3, 3))(x))
        return nn.Dense(2, name="head")(nn.Dropout(0.1, deterministic=not train)(x.mean((1, 2))))


def learner(**settings):
    images = np.random.default_rng(0).integers(0, 256, (50, 12, 12, 3), dtype=np.uint8)
    source = from_arrays(images, np.arange(50) % 2, ["a", "b"])
    data = DataBlock(source, random_split(0.2), presize=12, size=8, augment=None).load(8)
    learn = vision_learner(data, Tiny(), **settings)
    learn.console = Console(file=io.StringIO(), width=300)
    return learn


@pytest.fixture(scope="module")
def compiled():
    learn = learner()
    learn.fit_one_cycle(1, 0.01)
    return learn


@pytest.fixture
def learn(compiled, tmp_path):
    """Provides a compiled but untrained learner with a run directory; an epoch has 5 steps."""
    learn = compiled.again(0)
    learn.console = Console(file=io.StringIO(), width=300)
    learn.run = create_run(Config(), tmp_path / "run")
    return learn


def bits(state):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def test_a_hook_sees_every_event_with_its_numbers(tmp_path):
    events = []
    learn = learner(hooks=[events.append])
    learn.console, learn.run = Console(file=io.StringIO()), create_run(Config(), tmp_path / "run")
    learn.fine_tune(2, 0.02, freeze_epochs=1)
    begin, *between, end = events
    assert [type(event).__name__ for event in between] == [
        *("Ready", *["Step"] * 5, "Epoch"),
        *("Ready", *["Step"] * 5, "Epoch", *["Step"] * 5, "Epoch"),
    ]
    assert begin.number == 0
    assert (begin.groups, begin.classes) == (learn.groups.names, ("a", "b"))
    assert [plan.name for plan in begin.plans] == ["frozen", "unfrozen"]
    assert begin.data == learn.data.describe()
    assert begin.run == learn.run.path
    steps = [event for event in between if isinstance(event, jx.Step)]
    assert [step.number for step in steps] == list(range(1, 16))
    read = [record for event in between for record in getattr(event, "read", [])]
    assert [record.number for record in read] == list(range(15))
    assert [record.loss for record in read] == learn.recorder.losses
    assert [list(record.rates) for record in read] == learn.recorder.lrs
    assert [record.momentum for record in read] == learn.recorder.moms
    assert [e.record for e in between if isinstance(e, jx.Epoch)] == learn.records
    assert (end.how, end.number, end.error) == ("finished", 15, None)
    accuracy = end.interpretation.confusion_matrix().trace() / 10
    assert accuracy == pytest.approx(learn.records[-1]["accuracy"])


def test_a_second_call_and_one_that_is_resumed_say_where_they_begin(compiled, learn):
    learn.fit_one_cycle(1, 0.01)
    events = []
    again = compiled.again(0)
    again.restore(learn.run)
    again.run, again.hooks = learn.run, (events.append,)
    again.fit_one_cycle(1, 0.01)
    assert [(type(event).__name__, event.number) for event in events] == [("Begin", 5), ("End", 5)]
    events.clear()
    again.fit_one_cycle(1, 0.01)
    assert [event.number for event in events] == [5, 5, 6, 7, 8, 9, 10, 10, 10]


def test_an_error_in_a_hook_ends_training_with_its_state_saved(compiled, learn):
    """The exception is raised with a note; the resumed run ends like a run without an error."""
    whole = compiled.again(0)
    whole.fit_one_cycle(2, 0.01)
    others = []

    def fail(event):
        if isinstance(event, jx.Step) and event.number == 7:
            raise ZeroDivisionError("a slip of mine")

    learn.hooks = (fail, others.append)
    with pytest.raises(ZeroDivisionError, match="a slip of mine") as caught:
        learn.fit_one_cycle(2, 0.01)
    assert "raised in the hook fail" in caught.value.__notes__
    assert caught.traceback[-1].name == "fail"
    end = others[-1]
    assert (type(end), end.how, end.number) == (jx.End, "failed", 7)
    assert end.error is caught.value
    assert bits(end.state) == bits(learn.state)
    saves = StoredCheckpoints(learn.run.checkpoints)
    assert saves.steps() == [5, 7]
    again = compiled.again(0)
    assert again.restore(learn.run)
    again.run = learn.run
    again.fit_one_cycle(2, 0.01)
    assert bits(again.state) == bits(whole.state)


def test_a_hook_is_told_of_an_interrupt(learn):
    events = []

    def stop(event):
        events.append(event)
        if isinstance(event, jx.Step) and event.number == 3:
            signal.raise_signal(signal.SIGINT)

    learn.hooks = (stop,)
    with pytest.raises(KeyboardInterrupt):
        learn.fit_one_cycle(2, 0.01)
    assert (events[-1].how, events[-1].number) == ("interrupted", 3)


def spoil(event):
    """Alters whatever a hook can reach through an event."""
    for plan in getattr(event, "plans", ()):
        plan.rates(0)[:] = [9.0] * len(plan.rates(0))
    if state := getattr(event, "state", None):
        for tree in (state.params, state.batch_stats):
            for module in tree.values():
                for name in module:
                    module[name] = module[name] * 0 + 7
        state.params.clear()
        for leaf in jax.tree.leaves(state):
            array = np.asarray(leaf)
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0
    if record := getattr(event, "record", None):
        record.update(dict.fromkeys([name for name in record if name != "phase"], 0.99))
    if hasattr(event, "read"):
        event.read.clear()
    return "what it returns is dropped"


@pytest.mark.parametrize("call", ["fit", "fine_tune"])
def test_what_a_hook_alters_changes_nothing_of_what_is_computed(compiled, tmp_path, call):
    """A hook changes neither the states, nor the records (times aside), nor which epoch is best."""
    ended = []
    for hooks in ((), (spoil,)):
        learn = compiled.again(0)
        learn.console, learn.hooks = Console(file=io.StringIO()), hooks
        learn.run = create_run(Config(), tmp_path / f"{len(hooks)}")
        learn.saving = Saving(every_steps=2, keep_best=True)
        learn.fit(3, 0.05) if call == "fit" else learn.fine_tune(3, 0.05, 1)
        lines = map(json.loads, learn.run.metrics_file.read_text().splitlines())
        records = [{k: v for k, v in line.items() if "second" not in k} for line in lines]
        ended.append((bits(learn.state), records, learn.recorder.losses, learn.record["epoch"]))
    assert ended[0] == ended[1]


HOOKS = """
import json
from pathlib import Path
import jaxch5 as jx

def note(event):
    with Path("events.jsonl").open("a") as file:
        file.write(json.dumps([type(event).__name__, event.number]) + "\\n")

def fail(event):
    if isinstance(event, jx.Epoch):
        raise LookupError("no such dashboard")
"""


def train(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "jaxch5.train", *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])},
        check=False,
    )


def test_a_hook_of_the_command_line_is_called_and_kept(pictures, tmp_path):
    """A hook is named by its import path and kept in config.toml; resuming may name others."""
    (tmp_path / "my_hooks.py").write_text(HOOKS)
    small = ["--data.presize", 36, "--data.size", 32, "--data.batch-size", 8]
    small += ["--model.weights", "none", "--fit.epochs", 2, "--workdir", "run"]
    ended = train(
        tmp_path, "--data.path", pictures, *small, "--hooks", "my_hooks:note,my_hooks:fail"
    )
    assert ended.returncode == 1
    assert 'in fail\n    raise LookupError("no such dashboard")' in ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert last.endswith("LookupError: no such dashboard (raised in the hook fail)")
    assert "defect of jaxch5" not in ended.stderr
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    steps = [["Step", number] for number in range(1, 5)]
    assert events == [["Begin", 0], ["Ready", 0], *steps, ["Epoch", 4], ["End", 4]]
    assert 'hooks = [\n    "my_hooks:note",' in (tmp_path / "run" / "config.toml").read_text()
    (tmp_path / "events.jsonl").unlink()
    assert train(tmp_path, "--resume", "run", "--hooks", "my_hooks:note").returncode == 0
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == ["Begin", 4]
    assert json.loads(lines[-1]) == ["End", 8]
    # A hook named on resuming is looked up as well, so a misspelt one is refused.
    ended = train(tmp_path, "--resume", "run", "--hooks", "my_hooks:nota")
    assert ended.returncode == 2
    assert "hooks = my_hooks:nota: my_hooks has no nota; did you mean note?" in ended.stderr
