"""Losses for classification: pure functions of logits and labels, each the mean over items."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def softmax(logits: Float[Array, "*batch classes"]) -> Float[Array, "*batch classes"]:
    """Probabilities: exponentials of the logits, divided by their sum.

    The exponential makes every value positive and the division makes them add to one.

    Example:
        >>> [round(float(p), 4) for p in softmax(jnp.array([0.6734, 0.2576]))]
        [0.6025, 0.3975]
    """
    return jax.nn.softmax(logits)


def log_softmax(logits: Float[Array, "*batch classes"]) -> Float[Array, "*batch classes"]:
    """Logarithms of the probabilities, computed without taking the logarithm of a small number.

    Example:
        >>> [round(float(p), 4) for p in log_softmax(jnp.array([0.6734, 0.2576]))]
        [-0.5067, -0.9225]
    """
    return jax.nn.log_softmax(logits)


def nll_loss(
    log_probabilities: Float[Array, "batch classes"],
    labels: Int[Array, "batch"],
    weight: Float[Array, "classes"] | None = None,
) -> Float[Array, ""]:
    """Negative log-likelihood: minus the log-probability that each item gives to its label.

    Args:
        log_probabilities: what `log_softmax` returns.
        labels: class numbers.
        weight: importance of each class; the mean then divides by the sum of the weights of the
            labels, as PyTorch's `nll_loss` does.

    Example:
        >>> float(nll_loss(jnp.log(jnp.array([[0.5, 0.5], [0.25, 0.75]])), jnp.array([0, 0])))
        1.0397207736968994
    """
    likelihood = jnp.take_along_axis(log_probabilities, labels[:, None], axis=1)[:, 0]
    if weight is None:
        return -jnp.mean(likelihood)
    item_weight = weight[labels]
    return -jnp.sum(item_weight * likelihood) / jnp.sum(item_weight)


def cross_entropy(
    logits: Float[Array, "batch classes"],
    labels: Int[Array, "batch"],
    weight: Float[Array, "classes"] | None = None,
    label_smoothing: float = 0.0,
) -> Float[Array, ""]:
    """Cross-entropy: `nll_loss` of `log_softmax`.

    Args:
        logits: the model's activations, any real numbers.
        labels: class numbers.
        weight: importance of each class, as in `nll_loss`.
        label_smoothing: share of each target, 0 to 1, that is spread evenly over all classes
            (Szegedy et al., 1512.00567; with `weight`, PyTorch's way).

    Example:
        >>> round(float(cross_entropy(jnp.array([[0.6734, 0.2576]]), jnp.array([0]))), 4)
        0.5067
    """
    log_probabilities = log_softmax(logits)
    loss = nll_loss(log_probabilities, labels, weight)
    if label_smoothing == 0.0:
        return loss
    class_weight = jnp.ones(logits.shape[-1]) if weight is None else weight
    spread = -jnp.mean(class_weight * log_probabilities, axis=-1)
    uniform = jnp.sum(spread) / jnp.sum(class_weight[labels])
    return (1.0 - label_smoothing) * loss + label_smoothing * uniform


def focal_loss(
    logits: Float[Array, "batch classes"], labels: Int[Array, "batch"], gamma: float = 2.0
) -> Float[Array, ""]:
    """Cross-entropy in which items that are already right count less (Lin et al., 1708.02002).

    Args:
        logits: the model's activations.
        labels: class numbers.
        gamma: how fast an item's share falls as its probability rises; 0 is `cross_entropy`.

    Example:
        >>> round(float(focal_loss(jnp.array([[2.0, 0.0]]), jnp.array([0]))), 5)
        0.0018
    """
    likelihood = jnp.take_along_axis(log_softmax(logits), labels[:, None], axis=1)[:, 0]
    return -jnp.mean((1.0 - jnp.exp(likelihood)) ** gamma * likelihood)
