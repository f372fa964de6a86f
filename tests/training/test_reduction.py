"""The mean loss of a batch is PyTorch's, for any weights, label smoothing, gamma and mixing."""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxch5.augmentation.mixing import cutmix
from jaxch5.errors import ConfigError
from jaxch5.losses import ItemLosses, cross_entropy, focal_loss, nll_loss
from jaxch5.training.reduction import check_is_mean, loss_of_batch

GOLDEN = json.loads((Path(__file__).parents[1] / "golden.json").read_text())
LOGITS, LABELS, PARTNER, WEIGHT = (
    jnp.array(GOLDEN[name]) for name in ("logits", "labels", "partner", "weight")
)
SHARES = {
    "none": None,
    "one share": jnp.full(len(LABELS), GOLDEN["share"]),
    "shares": jnp.array(GOLDEN["shares"]),
}


def loss_of(case):
    weight = WEIGHT if case["weighted"] else None
    if case["gamma"] is None:
        return partial(cross_entropy, weight=weight, label_smoothing=case["label_smoothing"])
    return partial(focal_loss, gamma=case["gamma"], weight=weight)


@pytest.mark.parametrize(
    "case", GOLDEN["cases"], ids=lambda case: "-".join(map(str, case.values()))
)
def test_in_every_combination_it_is_pytorchs(case):
    shares = SHARES[case["mixing"]]
    pairs = None if shares is None else (PARTNER, shares)
    value = loss_of_batch(loss_of(case), LOGITS, LABELS, pairs)
    assert float(value) == pytest.approx(case["loss"], rel=1e-5)


def doubted(logits, labels):
    """A user's own loss, with a weight for each item."""
    weight = jnp.where(labels == 0, 0.5, 1.0)
    return ItemLosses(weight * cross_entropy(logits, labels, reduction="none"), weight)


OWN = [
    cross_entropy,
    partial(cross_entropy, weight=[0.0, 1.0, 5.0]),
    partial(partial(cross_entropy, label_smoothing=0.2), weight=np.array([3.0, 1.0, 1.0])),
    partial(focal_loss, gamma=0.5, weight=[1.0, 2.0, 0.1]),
    lambda logits, labels: nll_loss(jax.nn.log_softmax(logits), labels),
    doubted,
]
BATCHES = st.lists(
    st.tuples(st.lists(st.floats(-9, 9), min_size=3, max_size=3), st.integers(0, 2)),
    min_size=2,
    max_size=9,
)


@settings(deadline=None, max_examples=30)
@given(BATCHES, st.sampled_from(OWN))
def test_a_mixture_of_a_picture_with_nothing_is_the_picture(items, loss):
    """Mixing with shares of 1, or of each picture with itself, leaves a batch's loss unchanged.

    So mixing loses none of the class weights.
    """
    logits, labels = (jnp.array(values) for values in zip(*items, strict=True))
    count = len(labels)
    plain = float(loss_of_batch(loss, logits, labels))
    own = jnp.roll(jnp.arange(count), 1), jnp.ones(count)
    same = jnp.arange(count), jnp.linspace(0, 1, count)
    for pairs in (own, same):
        mixed = float(loss_of_batch(loss, logits, labels, pairs))
        assert mixed == pytest.approx(plain, rel=1e-4, abs=1e-6)


@settings(deadline=None, max_examples=30)
@given(BATCHES, st.sampled_from(OWN[1:3]))
def test_parts_of_a_batch_add_up_to_the_whole(items, loss):
    """The mean of the losses that two devices compute for their items is the loss of all items.

    Each device divides by the mean of both devices' sums of weights.
    """
    logits, labels = (jnp.array(values) for values in zip(*items, strict=True))
    logits, labels = jnp.concatenate([logits, logits[:1]]), jnp.concatenate([labels, labels[:1]])
    weight = jnp.asarray(loss.keywords["weight"], jnp.float32)[labels]
    halves = [slice(None, len(labels) // 2), slice(len(labels) // 2, None)]
    mean = jnp.stack([weight[half].sum() for half in halves]).mean()
    parts = [
        loss_of_batch(loss, logits[half], labels[half], over_devices=lambda total: mean)
        for half in halves
    ]
    whole = float(loss_of_batch(loss, logits, labels))
    assert float(sum(parts) / 2) == pytest.approx(whole, rel=1e-4, abs=1e-6)


def test_weights_that_are_hidden_in_a_mean_are_refused_before_they_cancel():
    for classes in (2, 3, 37):
        weight = jnp.linspace(1, 2, classes)
        check_is_mean(partial(cross_entropy, weight=weight), classes)
        check_is_mean(lambda logits, labels: cross_entropy(logits, labels), classes)
        check_is_mean(lambda logits, labels: jnp.mean(logits[:, 0] ** 2), classes)
        for hidden in (
            lambda logits, labels, weight=weight: cross_entropy(logits, labels, weight),
            partial(cross_entropy, reduction="sum"),
        ):
            with pytest.raises(ConfigError, match="is not the mean of the losses of single items"):
                check_is_mean(hidden, classes)


def test_a_batch_without_weight_teaches_nothing():
    value, slope = jax.value_and_grad(
        lambda logits: loss_of_batch(
            partial(cross_entropy, weight=[0.0, 1.0]), logits, jnp.array([0])
        )
    )(jnp.array([[1.0, 2.0]]))
    assert float(value) == 0
    assert not np.any(slope)


def test_losses_that_are_no_mean_are_refused():
    with pytest.raises(ConfigError, match=r"returns an array of shape \(12,\)"):
        loss_of_batch(partial(cross_entropy, reduction="none"), LOGITS, LABELS)
    with pytest.raises(ConfigError, match="reduction = meen"):
        cross_entropy(LOGITS, LABELS, reduction="meen")
    with pytest.raises(ConfigError, match=r"weight should .* of the 4 classes, .* shape \(2,\)"):
        cross_entropy(LOGITS, LABELS, [1.0, 2.0])


def test_the_mixed_loss_is_the_cross_entropy_to_soft_targets():
    logits = jax.random.normal(jax.random.key(3), (16, 16))
    mixed = cutmix(jnp.zeros((16, 8, 8, 3)), jax.random.key(4))
    one_hot, share = jnp.eye(16), mixed.share[:, None]
    targets = one_hot * share + one_hot[mixed.partner] * (1 - share)
    expected = -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(logits), axis=1))
    value = loss_of_batch(cross_entropy, logits, jnp.arange(16), (mixed.partner, mixed.share))
    np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.0])
def test_an_item_that_is_certain_leaves_a_finite_gradient(gamma):
    slope = jax.grad(lambda logits: focal_loss(logits, jnp.array([0]), gamma))
    assert np.isfinite(slope(jnp.array([[90.0, -90.0]]))).all()
