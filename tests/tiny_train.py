"""Runs `jaxch5 train`, and defines a network, `tiny_train:SPEC`, that compiles in a second."""

import sys

import flax.linen as nn

from jaxch5.models.layers import BatchNorm
from jaxch5.models.spec import ModelSpec
from jaxch5.train import main


class Tiny(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(8, (3, 3), 2, name="conv1")(x)
        x = nn.relu(BatchNorm(name="bn1")(x, train)).mean((1, 2))
        return nn.Dense(self.num_classes, name="head")(nn.relu(nn.Dense(128, name="fc")(x)))


SPEC = ModelSpec("tiny", Tiny, stages=("body", "head"))

if __name__ == "__main__":
    sys.exit(main())
