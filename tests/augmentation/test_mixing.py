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


def test_cutmix_targets_count_the_pixels():
    pictures = numbered(16)
    mixed = cutmix(pictures, jax.random.key(1))
    expected = soft_targets(mixed) @ (jnp.arange(16) / 15)
    means = np.asarray(mixed.pictures, np.float64).mean((1, 2, 3))
    np.testing.assert_allclose(means, expected, atol=1e-6)
    assert np.isin(np.asarray(mixed.pictures), np.asarray(pictures)).all()


def test_mixups_shares_are_beta_distributed():
    """Over 2,000 pairs, the larger share has the quantiles that beta-distributed shares have."""
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
