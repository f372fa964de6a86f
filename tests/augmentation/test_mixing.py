import jax
import jax.numpy as jnp
import numpy as np

from jaxch5.augmentation.mixing import cutmix, mixup


def numbered(count, side=8):
    """Pictures of one value each, 0 to 1, whose targets are one-hot."""
    values = jnp.arange(count) / (count - 1)
    return jnp.broadcast_to(values[:, None, None, None], (count, side, side, 3)), jnp.eye(count)


def test_mixup_weighs_pictures_and_targets_alike():
    pictures, targets = numbered(16)
    mixed, soft = mixup(pictures, targets, jax.random.key(0))
    expected = soft @ (jnp.arange(16) / 15)
    np.testing.assert_allclose(mixed[:, 0, 0, 0], expected, atol=1e-6)
    assert (jnp.diagonal(soft) >= 0.5).all()
    np.testing.assert_allclose(soft.sum(axis=1), 1, atol=1e-6)


def test_cutmix_targets_count_the_pixels():
    pictures, targets = numbered(16)
    mixed, soft = cutmix(pictures, targets, jax.random.key(1))
    np.testing.assert_allclose(mixed.mean((1, 2, 3)), soft @ (jnp.arange(16) / 15), atol=1e-6)
    assert np.isin(np.asarray(mixed), np.asarray(pictures)).all()


def test_mixups_shares_are_beta_distributed():
    """Of 2,000 pairs, the greater of a share and its rest."""
    shares = np.random.default_rng(0).beta(0.4, 0.4, 100_000)
    expected = np.quantile(np.maximum(shares, 1 - shares), [0.1, 0.5, 0.9])
    _, soft = mixup(jnp.zeros((2000, 1, 1, 3)), jnp.eye(2000), jax.random.key(2))
    np.testing.assert_allclose(
        np.quantile(jnp.diagonal(soft), [0.1, 0.5, 0.9]), expected, atol=0.03
    )
