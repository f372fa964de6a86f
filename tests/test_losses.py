"""The losses agree with PyTorch's and fastai's, and with the chapter's worked example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxch5.errors import ConfigError
from jaxch5.losses import (
    binary_cross_entropy,
    cross_entropy,
    explain_loss,
    focal_loss,
    log_softmax,
    nll_loss,
    softmax,
)

# Computed with PyTorch 2.13.0 (focal: fastai 2.8.12's FocalLoss, gamma 2).
LOGITS = jnp.array(
    [
        [
            0.003690460231155157,
            0.8962366580963135,
            -0.8224135637283325,
            -2.6717755794525146,
            -1.364012360572815,
        ],
        [
            -2.9749395847320557,
            0.1804307997226715,
            4.020645618438721,
            -1.4766194820404053,
            -1.8614246845245361,
        ],
        [
            1.4695261716842651,
            1.0706610679626465,
            0.3162427544593811,
            -2.7914040088653564,
            -0.0877554714679718,
        ],
        [
            2.085909605026245,
            -4.032643795013428,
            -1.372847318649292,
            -5.703668117523193,
            -3.8686132431030273,
        ],
        [
            -5.525205135345459,
            -0.7052733898162842,
            -3.802339553833008,
            0.8137930631637573,
            0.47025322914123535,
        ],
        [
            -0.5607928037643433,
            -7.550278663635254,
            -1.6160786151885986,
            -0.14550283551216125,
            0.33992695808410645,
        ],
    ]
)
LABELS = jnp.array([1, 2, 1, 1, 4, 0])
WEIGHT = jnp.array([1, 2, 0.5, 1, 3])


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (cross_entropy(LOGITS, LABELS), 1.7662900686264038),
        (cross_entropy(LOGITS, LABELS, weight=WEIGHT), 1.9510345458984375),
        (cross_entropy(LOGITS, LABELS, label_smoothing=0.1), 1.921583652496338),
        (nll_loss(log_softmax(LOGITS), LABELS), 1.7662900686264038),
        (focal_loss(LOGITS, LABELS), 1.3851137161254883),
        (focal_loss(LOGITS, LABELS, gamma=0.0), 1.7662900686264038),
    ],
    ids=["plain", "weighted", "smoothed", "nll", "focal", "focal without gamma"],
)
def test_losses_are_pytorchs(loss, expected):
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_weighted_smoothing_divides_by_the_weights_of_the_labels():
    """With weights and label smoothing, the loss follows PyTorch's definition.

    The definition is written out here item by item.
    """
    log_p = np.asarray(log_softmax(LOGITS), np.float64)
    weight, labels = np.asarray(WEIGHT, np.float64), np.asarray(LABELS)
    items = [
        -0.9 * weight[label] * row[label] - 0.1 * np.mean(weight * row)
        for row, label in zip(log_p, labels, strict=True)
    ]
    expected = np.sum(items) / np.sum(weight[labels])
    loss = cross_entropy(LOGITS, LABELS, weight=WEIGHT, label_smoothing=0.1)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_the_chapters_example():
    """The softmax and the losses are those of an item in chapter 5 of fastai's book."""
    activations = jnp.array([[0.6734, 0.2576]])
    np.testing.assert_allclose(softmax(activations)[0], [0.60247779, 0.39752221], rtol=1e-5)
    assert float(cross_entropy(activations, jnp.array([0]))) == pytest.approx(0.50670448, rel=1e-5)
    assert float(cross_entropy(activations, jnp.array([1]))) == pytest.approx(0.92250448, rel=1e-5)


def test_the_chapters_example_is_explained(capsys):
    explain_loss(np.array([0.6734, 0.2576]), 1, ["three", "a seven"])
    header, three, seven, total, loss = capsys.readouterr().out.splitlines()
    assert header.split() == ["class", "activation", "exp", "softmax", "log"]
    assert three.split()[1:] == ["0.6734", "1.9609", "0.6025", "-0.5067"]
    assert seven.endswith("-0.9225  <- label")
    assert total.split()[-1] == "1.0000"
    assert loss.endswith("0.9225")
    with pytest.raises(ConfigError, match="label = 2"):
        explain_loss([0.1, 0.2], 2)
    with pytest.raises(ConfigError, match="classes: there are 3 names, but 2 activations"):
        explain_loss([0.1, 0.2], 1, ["a", "b", "c"])


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(st.floats(-50, 50), st.integers(0, 1)), min_size=1, max_size=20))
def test_one_activation_is_a_softmax_of_two(items):
    logits, labels = (jnp.array(values) for values in zip(*items, strict=True))
    pairs = jnp.stack([jnp.zeros_like(logits), logits], axis=1)
    np.testing.assert_allclose(
        binary_cross_entropy(logits, labels), cross_entropy(pairs, labels), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("value", [10, 1.0, -0.1, float("nan"), None, jnp.array([0.1, 0.2])])
def test_label_smoothing_is_a_share_below_one(value):
    with pytest.raises(
        ConfigError, match=r"label_smoothing = .*: should be at least 0 and below 1"
    ):
        cross_entropy(LOGITS, LABELS, label_smoothing=value)


@pytest.mark.parametrize("value", [-1, 11, float("inf"), "2"])
def test_gamma_is_a_number_from_0_to_10(value):
    with pytest.raises(ConfigError, match=r"gamma = .*: should be at least 0 and at most 10"):
        focal_loss(LOGITS, LABELS, gamma=value)


@pytest.mark.parametrize(
    ("loss", "name", "values"),
    [(focal_loss, "gamma", (0.5, 2.0)), (cross_entropy, "label_smoothing", (0.0, 0.1))],
)
def test_a_program_may_be_compiled_for_any_number(loss, name, values):
    of_any = jax.jit(loss)
    for value in values:
        expected = loss(LOGITS, LABELS, **{name: value})
        found = of_any(LOGITS, LABELS, **{name: value})
        assert float(found) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("masked", [-np.inf, float(np.finfo(np.float32).min)])
@pytest.mark.parametrize("weight", [None, [1.0, 2.0, 3.0, 0.0, 0.0]])
def test_a_program_that_is_given_no_label_smoothing_allows_masked_classes(masked, weight):
    """The loss and its gradient are those of a call without smoothing, also if classes are out."""
    logits, labels = LOGITS.at[:, 3:].set(masked), LABELS % 3
    plain = jax.value_and_grad(cross_entropy)(logits, labels, weight)
    found = jax.jit(jax.value_and_grad(cross_entropy))(logits, labels, weight, 0.0)
    for one, other in zip(found, plain, strict=True):
        assert np.isfinite(other).all()
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_the_derivative_by_label_smoothing_is_known_at_zero():
    slope = jax.grad(cross_entropy, argnums=3)(LOGITS, LABELS, None, 0.0)
    change = cross_entropy(LOGITS, LABELS, label_smoothing=0.5) - cross_entropy(LOGITS, LABELS)
    assert float(slope) == pytest.approx(2 * float(change), rel=1e-5)


def test_large_logits_do_not_overflow():
    assert float(cross_entropy(jnp.array([[1e4, -1e4]]), jnp.array([1]))) == pytest.approx(2e4)
