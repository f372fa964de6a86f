"""Runs `jaxch5 train`, and defines a network, `tiny_train:SPEC`, that compiles in a second.

Environment variables change what happens if several processes train: after `TINY_SILENT` seconds, a
silent process counts as lost, and in the process with the number `TINY_LACKS`, there is no hook
`watch`.
"""

import sys
import time

import flax.linen as nn

from jaxch5.models.layers import BatchNorm
from jaxch5.models.spec import ModelSpec
from jaxch5.train import main
from jaxch5.training import hosts
from jaxch5.training.events import End
from jaxch5.util.libraries import variable


class Tiny(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(8, (3, 3), 2, name="conv1")(x)
        x = nn.relu(BatchNorm(name="bn1")(x, train)).mean((1, 2))
        return nn.Dense(self.num_classes, name="head")(nn.relu(nn.Dense(128, name="fc")(x)))


SPEC = ModelSpec("tiny", Tiny, stages=("body", "head"))


def slow(event):
    """Makes the first process end long after the others."""
    if isinstance(event, End):
        time.sleep(3 * hosts.HEARTBEAT_SECONDS)


def watch(event):
    pass


hosts.HEARTBEAT_SECONDS = int(variable("TINY_SILENT") or hosts.HEARTBEAT_SECONDS)
if variable("TINY_LACKS") == sys.argv[-1].rpartition(",")[2]:
    del watch

if __name__ == "__main__":
    sys.exit(main())
