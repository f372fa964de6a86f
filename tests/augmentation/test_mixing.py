import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxch5.augmentation.mixing import MIXERS, cutmix, mixup
from jaxch5.errors import ConfigError


def numbered(count, side=8):
    """Returns pictures that have a single value each, evenly spaced from 0 to 1."""
    values = jnp.arange(count) / (count - 1)
    return jnp.broadcast_to(values[:, None, None, None], (count, side, side, 3))


def soft_targets(mixed):
    """Returns the share that each original picture has in each mixed picture."""
    one_hot = jnp.eye(len(mixed.share))
    return one_hot * mixed.share[:, None] + one_hot[mixed.partner] * (1 - mixed.share[:, None])


def test_mixup_weighs_pictures_and_targets_alike():
    mixed = mixup(numbered(16), jax.random.key(0))
    expected = soft_targets(mixed) @ (jnp.arange(16) / 15)
    np.testing.assert_allclose(mixed.pictures[:, 0, 0, 0], expected, atol=1e-6)
    assert (mixed.share >= 0.5).all()


@pytest.mark.parametrize("mix", [mixup, cutmix])
def test_each_picture_is_the_partner_of_one_other(mix):
    """The partners are the batch in random order, so few pictures are their own partner."""
    partners = [np.asarray(mix(numbered(64, 2), jax.random.key(seed)).partner) for seed in (0, 1)]
    for partner in partners:
        assert sorted(partner) == list(range(64))
        assert np.mean(partner == np.arange(64)) < 0.2
    assert np.any(partners[0] != partners[1])


def test_cutmix_targets_count_the_pixels():
    """A picture has its partner's pixels in one box; `share` is the fraction of pixels outside it.

    The pixels of all pictures differ from each other, so the value of each shows where it is from.
    """
    pictures = jnp.arange(16 * 12 * 8 * 3.0).reshape(16, 12, 8, 3) / 4608
    mixed = cutmix(pictures, jax.random.key(1))
    for number, (picture, of_mixed) in enumerate(zip(pictures, mixed.pictures, strict=True)):
        partner = int(mixed.partner[number])
        boxed = np.any(np.asarray(of_mixed) != np.asarray(picture), axis=-1)
        np.testing.assert_array_equal(of_mixed[boxed], pictures[partner][boxed])
        rows, columns = boxed.any(axis=1), boxed.any(axis=0)
        np.testing.assert_array_equal(boxed, rows[:, None] & columns)
        for line in (rows, columns):
            assert (np.diff(np.flatnonzero(line)) == 1).all()
        if partner != number:
            assert float(mixed.share[number]) == pytest.approx(1 - boxed.mean(), abs=1e-6)


@pytest.mark.parametrize("alpha", [1.0, 0.4])
def test_cutmixs_boxes_are_those_of_its_paper(alpha):
    """Over 2,000 pairs, the share that is kept has the quantiles that the paper's rule gives.

    By this rule, a box covers a beta-distributed share of the pixels, may be centred anywhere in
    the picture, and is clipped at the border.
    """
    rng = np.random.default_rng(0)
    half = np.sqrt(1 - rng.beta(alpha, alpha, 100_000)) / 2
    middle = rng.random((2, 100_000))
    height, width = np.minimum(middle + half, 1) - np.maximum(middle - half, 0)
    expected = np.quantile(1 - height * width, [0.1, 0.3, 0.5, 0.7, 0.9])
    mixed = cutmix(jnp.zeros((2000, 48, 48, 1)), jax.random.key(2), alpha)
    found = np.quantile(mixed.share, [0.1, 0.3, 0.5, 0.7, 0.9])
    np.testing.assert_allclose(found, expected, atol=0.04)


def test_mixups_shares_are_beta_distributed():
    """Over 2,000 pairs, the larger share has the quantiles that follow from a beta distribution."""
    shares = np.random.default_rng(0).beta(0.4, 0.4, 100_000)
    expected = np.quantile(np.maximum(shares, 1 - shares), [0.1, 0.5, 0.9])
    mixed = mixup(jnp.zeros((2000, 1, 1, 3)), jax.random.key(2))
    np.testing.assert_allclose(np.quantile(mixed.share, [0.1, 0.5, 0.9]), expected, atol=0.03)


@pytest.mark.parametrize("name", MIXERS)
def test_alpha_is_checked_unless_a_program_is_compiled_for_any(name):
    mixer, pictures, key = MIXERS[name], numbered(4), jax.random.key(0)
    with pytest.raises(ConfigError, match=r"^alpha = 0: should be above 0 and at most 10$"):
        mixer(pictures, key, alpha=0)
    np.testing.assert_allclose(
        jax.jit(mixer)(pictures, key, 0.5).pictures, mixer(pictures, key, 0.5).pictures, atol=1e-6
    )
