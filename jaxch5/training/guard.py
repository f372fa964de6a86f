"""Refuses networks and data that do not fit, changes of fixed attributes, and nested calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import PyTree

from jaxch5.data.block import Data
from jaxch5.errors import ConfigError, TrainingError
from jaxch5.framing import size_text
from jaxch5.models.spec import ModelSpec
from jaxch5.task import Task
from jaxch5.training.events import check_hooks
from jaxch5.training.kept import kept_shapes
from jaxch5.training.plan import check_sizes
from jaxch5.training.recipe import Recipe
from jaxch5.training.state import TrainState, is_finite
from jaxch5.util.fastai import NamesFastai
from jaxch5.util.text import same_names

# Compiled programs and optimizers are made from these, so a new value would take effect only in
# part.
FIXED = ("model", "spec", "recipe", "groups", "mesh")


def check_outputs(name: str, outputs: PyTree, task: Task, classes: Sequence[str]) -> None:
    """Checks that a network's outputs for one picture are what a task needs for the classes.

    Args:
        name: Name of the network, for the message.
        outputs: Shapes of what the network returns for one picture.
        task: What labels mean; its activation may change the number of columns.
        classes: Names of the classes.

    Raises:
        ConfigError: The network does not return one array with the right number of columns.

    Example:
        >>> from jaxch5.task import SOFTMAX
        >>> check_outputs("Tiny", jax.ShapeDtypeStruct((1, 5), "float32"), SOFTMAX, ["cat", "dog"])
        Traceback (most recent call last):
        jaxch5.errors.ConfigError: Tiny: has 5 outputs, but there are 2 classes: cat, dog; make it \
return 2 logits for each picture
    """
    shape = getattr(outputs, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != 1:
        what = f"of type {type(outputs).__name__}" if shape is None else f"of shape {shape}"
        raise ConfigError(
            f"{name}: returns a value {what} for a batch of one picture; make it return one array "
            f"of logits, of shape (1, {len(classes)})"
        )
    if jax.eval_shape(task.activation, outputs).shape != (1, len(classes)):
        few = ", ".join([*classes[:5], *["..."] * (len(classes) > 5)])
        raise ConfigError(
            f"{name}: has {shape[1]} outputs, but there are {len(classes)} classes: {few}; make it "
            f"return {len(classes)} logits for each picture"
        )


def check_successor(model: nn.Module, spec: ModelSpec, before: Data, data: Data) -> None:
    """Checks that data can take the place of the data that a network was made for.

    Raises:
        ConfigError: The classes or their order differ, or the network's weights fit only the
            earlier size.
    """
    if not same_names(before.classes, data.classes):
        raise ConfigError(
            f"data: has the classes {', '.join(data.classes)}, but the network was made for "
            f"{', '.join(before.classes)}, in this order; make another learner for these data"
        )
    if before.size != data.size:
        (_, now), (_, then) = (kept_shapes(model, size) for size in (data.size, before.size))
        # Weights may depend on the size even if their shapes do not: a ViT's positions on 7x28
        # patches and those on 14x14 have the same shape.
        if spec.resample or now != then:
            raise ConfigError(
                f"data: has size {size_text(data.size)}, but the weights of this network fit only "
                f"size {size_text(before.size)}; make another learner for these data"
            )


def check_weights(state: TrainState) -> None:
    """Checks that earlier training, if there was any, has left finite weights.

    Raises:
        TrainingError: It has not, so that no further training could change a weight.
    """
    if int(state.step) and not is_finite(state):
        raise TrainingError(
            "the weights are no longer finite after earlier training; in Python, start over with "
            "learn = learn.again(seed), or return to a run's last checkpoint with "
            "learn.restore(run)"
        )


def are_comparable(before: Data, data: Data) -> bool:
    """Checks whether scores on two data compare networks: same pictures for validation, same view.

    Example:
        >>> from dataclasses import replace
        >>> from jaxch5.data.block import DataBlock
        >>> from jaxch5.data.source import digits
        >>> from jaxch5.data.split import random_split
        >>> block = DataBlock(digits(), random_split(), presize=16, size=16)
        >>> large, small = block.load(batch_size=64), block.load(batch_size=32)
        >>> are_comparable(large, small), are_comparable(large, replace(large, size=8))
        (True, False)
    """
    (old, then), (new, now) = ((of.source, of.valid.items) for of in (before, data))
    frames = [(of.size, of.presize, of.framing, of.source.reading) for of in (before, data)]
    if frames[0] != frames[1] or not np.array_equal(old.labels[then], new.labels[now]):
        return False
    if old.read is new.read:
        return np.array_equal(then, now)
    # If the same folder was read again, its readers differ only in what they refer to.
    readers = [getattr(of.read, "__code__", of.read) for of in (old, new)]
    if readers[0] is not readers[1] or not (old.file and new.file):
        return False
    return [*map(old.file, then)] == [*map(new.file, now)]


class Guarded(NamesFastai):
    """Base class of the trainer; refuses values of attributes that the trainer could not obey."""

    data: Data
    model: nn.Module
    recipe: Recipe
    spec: ModelSpec
    _in_call: str = ""

    # With this method, a type checker would assume that every attribute can be set.
    if not TYPE_CHECKING:

        def __setattr__(self, name: str, value: Any) -> None:
            if name in vars(self) and name in FIXED:
                raise ConfigError(
                    f"{name}: a learner keeps the {name} that it was made with; make another "
                    "in Python"
                )
            if name in vars(self) and name == "data":
                refuse_within_call(self, "a change of learn.data")
                check_successor(self.model, self.spec, self.data, value)
                check_sizes(self.recipe.sizes, value.size)
                value = self._adopt(value)
            if name == "hooks":
                value = check_hooks(value)
            super().__setattr__(name, value)

    def _adopt(self, data: Data) -> Data:
        """Prepares for other data, and returns them as they are to be kept."""
        return data


T = TypeVar("T", bound=Guarded)
P = ParamSpec("P")
R = TypeVar("R")


def refuse_within_call(trainer: Guarded, what: str) -> None:
    """Checks that no training call is in progress, that is, that no hook is asking for this.

    Raises:
        TrainingError: A training call is in progress.
    """
    if trainer._in_call:
        raise TrainingError(
            f"{what}: is not possible during {trainer._in_call}, so no hook can do it; wait until "
            "training has ended"
        )


def alone(
    method: Callable[Concatenate[T, P], R],
) -> Callable[Concatenate[T, P], R]:
    """Makes a method of a trainer refuse to run during another such method, as in a hook."""

    @wraps(method)
    def call(trainer: T, *args: P.args, **kwargs: P.kwargs) -> R:
        name = method.__name__.removeprefix("_")
        refuse_within_call(trainer, name)
        trainer._in_call = name
        try:
            return method(trainer, *args, **kwargs)
        finally:
            trainer._in_call = ""

    return call
