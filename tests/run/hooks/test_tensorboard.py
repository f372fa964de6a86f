"""The event files for TensorBoard hold losses, rates and metrics at their steps."""

import struct
import sys
import time

import pytest
from tensorboardX.proto.event_pb2 import Event

from jaxch5.errors import Jaxch5Error
from jaxch5.run.hooks.tensorboard import TensorBoard
from jaxch5.training.events import Begin, End, Epoch, Step, StepRecord


def scalars(folder):
    """Reads event files and returns the values of each tag by step.

    A record consists of its length, a checksum, its content and another checksum.
    """
    found = {}
    for file in sorted(folder.iterdir()):
        content, place = file.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            event = Event.FromString(content[place + 12 : place + 12 + length])
            place += 16 + length
            if event.HasField("session_log"):
                # A run starts again here. Like TensorBoard, discard the values from this step on.
                for values in found.values():
                    for step in [step for step in values if step >= event.step]:
                        del values[step]
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = round(value.simple_value, 4)
    return found


def test_figures_are_written_at_their_steps(tmp_path):
    record = {"epoch": 0, "phase": "one_cycle", "accuracy": 0.75, "skipped_steps": 3}
    hook = TensorBoard(tmp_path)
    hook(Begin(0, 2, (), ("body", "head"), (), "", None))
    hook(Step(1, None, [StepRecord(0, 2.0, (0.1, 0.2), 0.9)]))
    hook(Epoch(2, None, [StepRecord(1, 1.0, (0.2, 0.4), 0.8)], record))
    hook(End(2, None, "finished"))
    assert scalars(tmp_path) == {
        "loss/step": {0: 2.0, 1: 1.0},
        "learning_rate/body": {0: 0.1, 1: 0.2},
        "learning_rate/head": {0: 0.2, 1: 0.4},
        "momentum": {0: 0.9, 1: 0.8},
        "epoch/accuracy": {1: 0.75},
        "epoch/skipped_steps": {1: 3.0},
    }
    assert "tensorflow" not in sys.modules


def test_a_run_resumed_after_an_epoch_keeps_what_came_before_and_replaces_the_rest(tmp_path):
    def write(start, losses, accuracy):
        hook = TensorBoard(tmp_path, start)
        hook(Begin(start, 4, (), (), (), "", None))
        steps = [StepRecord(start + n, loss, (), 0.9) for n, loss in enumerate(losses)]
        hook(Epoch(2 + start, None, steps[:2], {"accuracy": accuracy}))
        hook(Step(3 + start, None, steps[2:]))
        hook(End(3 + start, None, "stopped"))

    write(0, [4.0, 3.0, 2.5], 0.5)
    time.sleep(1.1)  # Files are ordered by their names, which contain whole seconds.
    write(2, [2.0, 1.0], 0.75)
    found = scalars(tmp_path)
    assert found["loss/step"] == {0: 4.0, 1: 3.0, 2: 2.0, 3: 1.0}
    assert found["epoch/accuracy"] == {1: 0.5, 3: 0.75}


def test_where_it_is_not_installed_a_line_says_what_is(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(Jaxch5Error, match=r"pip install -e '\.\[tensorboard\]' in jaxch5's folder"):
        TensorBoard(tmp_path)
