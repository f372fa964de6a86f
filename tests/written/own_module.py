"""Defines the small network and the pictures of the runs `own_fp32` and `own_fp16`."""

import flax.linen as nn
import numpy as np

import jaxch5 as jx
from jaxch5.models.layers import BatchNorm

STEPS_PER_EPOCH = 6
STOPPED = 8


class Own(nn.Module):
    """A network with the parts that checkpoints must handle: statistics, dropout, body and head."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(BatchNorm(name="bn1")(nn.Conv(4, (3, 3), 2, name="conv1")(x), train))
        x = nn.Dropout(0.25, deterministic=not train)(x.mean((1, 2)))
        return nn.Dense(3, name="head")(x)


def own_data():
    """Returns 60 pictures of 10 x 10 pixels in three classes, made without random numbers."""
    item, row, column = np.meshgrid(*map(np.arange, (60, 10, 10)), indexing="ij")
    labels = np.arange(60) % 3
    pictures = np.uint8((37 * item + 11 * row * (labels[item] + 1) + 5 * column**2) % 256)
    source = jx.from_arrays(pictures, labels, ["first", "second", "third"])
    split = jx.random_split(0.2, seed=1)
    return jx.DataBlock(source, split, presize=10, size=8).load(batch_size=8, cache="off")


def own_learner(run, seed=3):
    """Returns a learner with the settings of a run, which is `own_fp32` or `own_fp16`."""
    settings = {
        "own_fp32": {"mix": jx.mixup, "average": 0.9, "clip": 1.0},
        "own_fp16": {"precision": "fp16", "optimizer": "sgd", "accumulate": 2},
    }
    return jx.vision_learner(own_data(), Own(), seed=seed, **settings[run])


def train_own(learn, run):
    """Trains a learner in the same way as a run of that name was trained.

    A restored learner trains only the steps that remain.
    """
    if run == "own_fp32":
        learn.fit_one_cycle(2, slice(1e-3, 1e-2))
    else:
        learn.fine_tune(1, base_lr=1e-2, freeze_epochs=2)
