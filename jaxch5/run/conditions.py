"""Records the conditions of a run's training, and checks that they hold when it is resumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import flax.linen as nn

from jaxch5.data.block import Data
from jaxch5.errors import CheckpointError, ConfigError
from jaxch5.models.spec import ModelSpec, Normalization
from jaxch5.run.checkpoint import StoredCheckpoints
from jaxch5.task import SOFTMAX
from jaxch5.training.recipe import Recipe
from jaxch5.util.text import described, same_names
from jaxch5.view import View, view_of

# Key in a checkpoint's description: what decides the result besides the network and the pictures.
CONDITIONS = "conditions"
# Fields of the recipe that may differ when a run is resumed, since they do not change the result,
# and those that are compared in another way.
FREE = ("devices", "metrics", "remat", "shard_optimizer")
APART = ("class_weights", "groups", "head", "loss", "task")


def about_run(
    model: nn.Module,
    spec: ModelSpec,
    frozen_to: int,
    recipe: Recipe,
    data: Data,
    seed: int,
    normalization: Normalization,
    view: View,
    licence: str | None,
) -> dict[str, Any]:
    """Returns the description that a checkpoint stores, which is needed to use its state."""
    return {
        "arch": spec.name,
        "classes": list(data.classes),
        "frozen_to": frozen_to,
        **{name: list(value) for name, value in normalization._asdict().items()},
        **vars(view),
        "licence": licence,
        "task": recipe.task.name,
        "class_weights": recipe.class_weights,
        "best": list(recipe.task.best),
        CONDITIONS: {
            # The setting does nothing if the network has no choice of heads.
            "head": getattr(model, "head", "") if spec.heads else "",
            **conditions(recipe, data, seed),
        },
    }


def conditions(recipe: Recipe, data: Data, seed: int) -> dict[str, str]:
    """Returns what decides the result of training besides the network and the pictures, as texts.

    Example:
        >>> from jaxch5.data.block import DataBlock
        >>> from jaxch5.data.source import digits
        >>> from jaxch5.data.split import random_split
        >>> data = DataBlock(digits(), random_split(), presize=8, size=8).load(64, seed=3)
        >>> found = conditions(Recipe(wd=0.1), data, seed=1)
        >>> [found[name] for name in ("wd", "loss", "seed", "shuffle_seed", "size")]
        ['0.1', 'cross_entropy', '1', '3', '8']
    """
    others = (*FREE, *APART)
    fixed = {field.name: getattr(recipe, field.name) for field in fields(recipe)}
    values = {
        **{name: value for name, value in fixed.items() if name not in others},
        "groups": recipe.grouping,
        "loss": recipe.loss or recipe.task.loss,
        "best": recipe.task.best,
        "seed": seed,
        "shuffle_seed": data.train.seed,
        "batch_size": data.train.batch_size,
        # Batch norms then take their statistics from each device's share of a batch.
        **({"devices": data.devices} if recipe.bn == "local" else {}),
        "sampler": data.train.sampler,
        "presize": data.presize,
        "size": data.size,
        **vars(data.framing),
        "augment": data.augment and type(data.augment),
        **(vars(data.augment) if data.augment else {}),
    }
    return {name: described(value) for name, value in values.items()}


def check_conditions(
    saves: StoredCheckpoints, step: int, here: Mapping[str, Any]
) -> tuple[tuple[Normalization, View, str | None], int]:
    """Checks that a checkpoint was saved with the same network, classes, task and conditions.

    Functions and objects are compared by their names and arguments, as `described` gives them.

    Args:
        saves: Checkpoints of the run.
        step: One of `saves.steps()`.
        here: Description, from `about_run`, of how training is to continue.

    Returns:
        What is taken over from the checkpoint: normalization, view and licence; and the number of
        the first group of layers that is trained.

    Raises:
        ConfigError: A condition that influences the result differs; the message names it.
        CheckpointError: The checkpoint is damaged.
    """
    about = saves.about(step)
    # Older checkpoints lack the task and the class weights, which could not be chosen at the time.
    about = {"task": SOFTMAX.name, "class_weights": "none", **about}
    # Older checkpoints may also lack some conditions, and checkpoints of later versions may have
    # additional ones. A condition that only one of the two descriptions has is not compared.
    recorded = about.get(CONDITIONS, {})
    then, now = {**about, **recorded}, {**here, **here[CONDITIONS]}
    same = {
        "arch": about["arch"] == here["arch"],
        "classes": same_names(about["classes"], here["classes"]),
        "task": about["task"] == here["task"],
        "class_weights": [*about["class_weights"]] == [*here["class_weights"]],
        **{name: then[name] == now[name] for name in here[CONDITIONS] if name in recorded},
    }
    for name, fits in same.items():
        if not fits:
            raise ConfigError(
                f"{saves.directory / str(step)}: has {name} {then[name]}, not {now[name]}; "
                "resume a run with the network, the data and the settings that it began with, or "
                "begin another from its weights"
            )
    try:
        normalization = Normalization(about["mean"], about["std"])
    except ConfigError as error:
        raise CheckpointError(f"{saves.directory / str(step)}: {error}") from None
    return (normalization, view_of(about), about.get("licence")), about["frozen_to"]
