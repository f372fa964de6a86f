"""Event files that TensorBoard reads: losses, rates and metrics at their steps."""

import struct
import sys

from tensorboardX.proto.event_pb2 import Event

from jaxch5.training.tensorboard import Log


def scalars(folder):
    """Of each tag, values by step: a record is its length, a checksum, bytes and a checksum."""
    found = {}
    for file in sorted(folder.iterdir()):
        content, place = file.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            event = Event.FromString(content[place + 12 : place + 12 + length])
            place += 16 + length
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = round(value.simple_value, 4)
    return found


def test_figures_are_written_at_their_steps(tmp_path):
    log = Log(tmp_path, ["body", "head"])
    log.step(0, 2.0, [0.1, 0.2], 0.9)
    log.step(1, 1.0, [0.2, 0.4], 0.8)
    log.epoch(2, {"epoch": 0, "phase": "one_cycle", "accuracy": 0.75})
    log.close()
    assert scalars(tmp_path) == {
        "loss/step": {0: 2.0, 1: 1.0},
        "learning_rate/body": {0: 0.1, 1: 0.2},
        "learning_rate/head": {0: 0.2, 1: 0.4},
        "momentum": {0: 0.9, 1: 0.8},
        "epoch/accuracy": {2: 0.75},
    }
    assert "tensorflow" not in sys.modules
