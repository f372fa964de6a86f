"""Computes the mean loss of a batch, whose items may be mixed or weighted."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxch5.errors import ConfigError
from jaxch5.losses import (
    ITEMS,
    ItemLosses,
    Loss,
    binary_cross_entropy,
    cross_entropy,
    focal_loss,
    nll_loss,
    sigmoid_cross_entropy,
)
from jaxch5.util.text import name_of

# The losses of jaxch5, which can return the loss of each item.
OURS = (cross_entropy, nll_loss, focal_loss, binary_cross_entropy, sigmoid_cross_entropy)
# Number of batches to try: on a single batch, a weighted mean may happen to equal the plain mean.
CHANCES = 3


def loss_of_batch(
    loss: Loss,
    logits: Float[Array, "batch classes"],
    labels: Int[Array, "batch"],
    pairs: tuple[Int[Array, "batch"], Float[Array, "batch"]] | None = None,
    over_devices: Callable[[Array], Array] = lambda x: x,
) -> Float[Array, ""]:
    """Returns the mean loss of a batch.

    With class weights, the mean is the sum of weighted losses divided by the sum of the weights.
    A mixed item has two labels, each with its share of the loss and of the weight. If all shares in
    a batch are equal, the mean is the usual `share * loss(logits, labels) + (1 - share) *
    loss(logits, labels[partner])`; if all are 1, it is the loss without mixing. (fastai's
    `MixHandler`, and PyTorch's `cross_entropy` with probabilities as targets, instead divide by the
    number of items, which gives the same gradient multiplied by the mean weight of the batch.)

    Args:
        loss: Function from logits and labels to their mean loss, or to `ItemLosses`. If items are
            mixed, a loss that returns a mean is called for each item; see `check_is_mean`.
        logits: Outputs of the network.
        labels: Class numbers.
        pairs: Index of each item's partner in the batch, and the item's own share, 0 to 1; None if
            nothing is mixed.
        over_devices: As in `ItemLosses.mean`.

    Raises:
        ConfigError: The loss returns neither a scalar nor `ItemLosses`.

    Example:
        >>> logits, labels = jnp.array([[0.0, 1.0], [2.0, 0.0]]), jnp.array([0, 1])
        >>> loss = partial(cross_entropy, weight=jnp.array([1.0, 3.0]))
        >>> pairs = jnp.array([1, 0]), jnp.array([1.0, 1.0])
        >>> bool(jnp.isclose(loss_of_batch(loss, logits, labels, pairs), loss(logits, labels)))
        True
    """
    taken = _of_items(loss)(logits, labels)
    if not isinstance(taken, ItemLosses) and jnp.ndim(taken):
        raise ConfigError(
            f"loss: {name_of(loss)} returns an array of shape {jnp.shape(taken)}; it should "
            "return the mean over the items, or jaxch5.ItemLosses"
        )
    if pairs is None:
        return taken.mean(over_devices) if isinstance(taken, ItemLosses) else taken
    partner, share = pairs
    own, other = (_losses_of_each(loss, logits, of) for of in (labels, labels[partner]))
    value = share * own.value + (1 - share) * other.value
    if own.weight is None or other.weight is None:
        return ItemLosses(value).mean()
    weight = share * own.weight + (1 - share) * other.weight
    return ItemLosses(value, weight).mean(over_devices)


def check_is_mean(loss: Loss, classes: int) -> None:
    """Refuses a loss whose value for a batch is not the mean of its values for single items.

    The loss is called for each mixed item, and for the rows of each device separately if batch
    norms are local. Weights that it applies within its mean would then cancel out or give a wrong
    result.

    Args:
        loss: Function from logits and labels to their mean loss, or to `ItemLosses`.
        classes: Number of classes.

    Raises:
        ConfigError: The loss is not such a mean.

    Example:
        >>> check_is_mean(partial(cross_entropy, weight=[1, 2, 3]), 3)
        >>> check_is_mean(lambda logits, labels: cross_entropy(logits, labels, [1, 2, 3]), 3)
        Traceback (most recent call last):
        jaxch5.errors.ConfigError: loss: <lambda> is not the mean of the losses of single items, \
which mixing and --model.bn local need; return jaxch5.ItemLosses, which can hold weights, or pass \
partial(cross_entropy, weight=...)
    """
    count = classes + 3
    labels = jnp.arange(count) % classes
    for seed in range(CHANCES):
        logits = 3 * jax.random.normal(jax.random.key(seed), (count, classes))
        taken = _of_items(loss)(logits, labels)
        if isinstance(taken, ItemLosses) or jnp.ndim(taken):
            return
        if not jnp.allclose(taken, _losses_of_each(loss, logits, labels).mean(), rtol=1e-4):
            raise ConfigError(
                f"loss: {name_of(loss)} is not the mean of the losses of single items, which "
                "mixing and --model.bn local need; return jaxch5.ItemLosses, which can hold "
                "weights, or pass partial(cross_entropy, weight=...)"
            )


def _losses_of_each(
    loss: Loss, logits: Float[Array, "batch classes"], labels: Int[Array, "batch"]
) -> ItemLosses:
    taken = _of_items(loss)(logits, labels)
    if isinstance(taken, ItemLosses):
        return taken

    def of_one(row: Array, label: Array) -> Any:
        return loss(row[None], label[None])

    return ItemLosses(jax.vmap(of_one)(logits, labels))


def _of_items(loss: Loss) -> Loss:
    """Returns the loss, made to return `ItemLosses` if it is one of `OURS` and returns a mean."""
    function: Any = loss
    settings: dict[str, Any] = {}
    while isinstance(function, partial):
        function, settings = function.func, function.keywords | settings
    ours = function in OURS
    asked = ours and settings.get("reduction", "mean") == "mean"
    return partial(loss, reduction=ITEMS) if asked else loss  # type: ignore[call-arg]
