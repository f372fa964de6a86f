import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxch5.augmentation import color, geometry


@pytest.mark.parametrize(
    ("brightness", "contrast", "expected"),
    [
        (0.6, 1.0, [0.0, 0.14286, 0.6, 0.93103, 1.0]),
        (0.5, 1.25, [0.0, 0.06028, 0.5, 0.93972, 1.0]),
        (0.42, 0.8, [0.0, 0.11753, 0.4358, 0.81751, 1.0]),
    ],
)
def test_lighting_is_fastais(brightness, contrast, expected):
    """The expected values are from fastai 2.8.12: `brightness(draw=)`, then `contrast(draw=)`."""
    values = jnp.array([0.0, 0.1, 0.5, 0.9, 1.0]).reshape(1, 1, 5, 1)
    lit = color.lighting(values, jnp.full(1, brightness), jnp.full(1, contrast))
    np.testing.assert_allclose(lit.ravel(), expected, atol=2e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(0, 0.95), st.floats(0, 0.95), st.floats(0, 0.5))
def test_nothing_leaves_0_to_1(seed, max_lighting, max_saturation, max_hue):
    draws = geometry.uniforms(jax.random.key(seed), jnp.arange(4), 8)
    pictures = jax.random.uniform(jax.random.key(seed + 1), (4, 5, 5, 3))
    pictures = jnp.round(pictures * 3) / 3
    pictures = color.random_lighting(draws[:, :4], pictures, max_lighting, 1.0)
    pictures = color.random_saturation(draws[:, 4:6], pictures, max_saturation, 1.0)
    pictures = color.random_hue(draws[:, 6:], pictures, max_hue, 1.0)
    assert np.isfinite(pictures).all()
    # dm-pix's conversion to HSV and back has rounding errors; `augment` clips their effect.
    assert pictures.min() >= -1e-6
    assert pictures.max() <= 1 + 1e-6


def test_each_picture_has_its_own_saturation_hue_and_grey():
    pictures = jax.random.uniform(jax.random.key(0), (3, 6, 6, 3))
    values = jnp.array([0.7, 1.0, 1.3])
    expected = [dm_pix.adjust_saturation(p, v) for p, v in zip(pictures, values, strict=True)]
    np.testing.assert_allclose(color.saturation(pictures, values), jnp.stack(expected), atol=1e-6)
    turned = [dm_pix.adjust_hue(p, v) for p, v in zip(pictures, values, strict=True)]
    np.testing.assert_allclose(color.hue(pictures, values), jnp.stack(turned), atol=1e-6)
    grey = color.gray(pictures, jnp.array([True, False, True]))
    np.testing.assert_array_equal(grey[1], pictures[1])
    luma = pictures @ jnp.array([0.299, 0.587, 0.114])
    for number in (0, 2):
        expected = jnp.repeat(luma[number, ..., None], 3, axis=-1)
        np.testing.assert_allclose(grey[number], expected, atol=1e-3)


def test_lighting_is_drawn_from_fastais_distributions():
    """Changes of brightness and of contrast have fastai's probability and quantiles.

    Brightness is measured on mid-grey, and contrast, which does not change mid-grey, on a grey of
    0.6, each with 20,000 draws.
    """
    n, p = 20_000, 0.75
    draws = geometry.uniforms(jax.random.key(0), jnp.arange(n), 4)
    grey = jnp.full((n, 1, 1, 1), 0.5)
    alone = draws.at[:, 2].set(1.0)
    middle = np.asarray(color.random_lighting(alone, grey, 0.2, p)).ravel()
    changed = np.abs(middle - 0.5) > 1e-6
    assert abs(changed.mean() - p) < 0.012
    quantiles = np.quantile(middle[changed], [0.1, 0.5, 0.9])
    np.testing.assert_allclose(quantiles, [0.42, 0.5, 0.58], atol=0.004)

    alone = draws.at[:, 0].set(1.0)
    lit = np.asarray(color.random_lighting(alone, grey + 0.1, 0.2, p), np.float64).ravel()
    factors = np.log(np.log(lit / (1 - lit)) / np.log(0.6 / 0.4))
    changed = np.abs(factors) > 1e-4
    assert abs(changed.mean() - p) < 0.012
    quantiles = np.quantile(factors[changed], [0.1, 0.5, 0.9])
    np.testing.assert_allclose(quantiles, np.log(0.8) * np.array([0.8, 0, -0.8]), atol=0.01)


def test_saturation_hue_and_grey_are_drawn_as_often_and_as_far_as_asked():
    """Each change has its probability, and the logarithm of its factor is uniformly distributed.

    Saturation is measured on pink and hue on red, each with 20,000 draws.
    """
    n, p = 20_000, 0.75
    draws = geometry.uniforms(jax.random.key(0), jnp.arange(n), 2)

    def pictures_of(rgb):
        return jnp.tile(jnp.array(rgb), (n, 1, 1, 1))

    pink = np.asarray(color.random_saturation(draws, pictures_of([1, 0.5, 0.5]), 0.3, p), float)
    red = np.asarray(color.random_hue(draws, pictures_of([1.0, 0, 0]), 0.1, p), float)
    # A sixth of a turn leads from red to yellow, in which green is 1, or to magenta.
    turns = (red[..., 1] - red[..., 2]) / 6
    for factors, largest in (((1 - pink[..., 1]) / 0.5, 0.3), (1 + turns, 0.1)):
        logs = np.log(factors).ravel()
        changed = np.abs(logs) > 1e-5
        assert abs(changed.mean() - p) < 0.012
        quantiles = np.quantile(logs[changed], [0.1, 0.3, 0.5, 0.7, 0.9])
        expected = np.log(1 - largest) * np.array([0.8, 0.4, 0, -0.4, -0.8])
        np.testing.assert_allclose(quantiles, expected, atol=0.02 * -2 * np.log(1 - largest))

    grey = np.asarray(color.random_gray(draws[:, :1], pictures_of([1.0, 0, 0]), 0.2))
    assert abs((grey[..., 1] > 0).mean() - 0.2) < 0.012
