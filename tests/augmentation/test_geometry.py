import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxch5.augmentation import geometry

ANGLES = st.floats(-180, 180)
PARTS = st.floats(0, 1)
TILTS = st.floats(-0.3, 0.3)


def one(value):
    return jnp.full(1, value)


def apply(matrix, points):
    """Maps points [n, 2] with one matrix, and returns the mapped points."""
    mapped = np.asarray(matrix, np.float64) @ np.c_[points, np.ones(len(points))].T
    return (mapped[:2] / mapped[2]).T


def draws(count, operation_draws, seed=0):
    return geometry.uniforms(jax.random.key(seed), jnp.arange(count), operation_draws)


@settings(max_examples=25, deadline=None)
@given(ANGLES, st.floats(0.5, 2), PARTS, PARTS, TILTS, TILTS, st.integers(0, 7))
def test_composing_is_applying_one_after_the_other(degrees, factor, x, y, tilt_x, tilt_y, symmetry):
    operations = [
        geometry.warp(one(tilt_x), one(tilt_y)),
        geometry.dihedral(jnp.full(1, symmetry)),
        geometry.rotate(one(degrees)),
        geometry.zoom(one(factor), one(x), one(y)),
    ]
    points = np.array([[-0.3, 0.2], [0.1, 0.4], [0.25, -0.35]])
    in_turn = points
    for operation in reversed(operations):
        in_turn = apply(operation[0], in_turn)
    product = np.eye(3)
    for operation in operations:
        product = product @ np.asarray(operation[0], np.float64)
    composed = geometry.compose(*operations)[0]
    np.testing.assert_allclose(composed, product, atol=1e-5)
    np.testing.assert_allclose(apply(composed, points), in_turn, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (0.2, 0.1, [[-0.83805, -0.60411], [0.15893, 0.95608], [1.21899, 1.35835]]),
        (-0.15, 0.2, [[-0.60149, -0.76181], [0.47105, 0.78028], [1.15275, 0.76206]]),
        (0.2, 0.0, [[-0.86207, -0.51724], [0.10638, 0.95745], [1.0, 1.25]]),
    ],
)
def test_warp_moves_points_as_fastai_does(x, y, expected):
    """The expected points are from fastai 2.8.12's `Warp` with `draw_x` and `draw_y`."""
    points = np.array([[-0.8, -0.6], [0.3, 0.9], [1.0, 1.0]])
    matrix = geometry.warp(one(x), one(y))[0]
    np.testing.assert_allclose(apply(matrix, points), expected, atol=2e-5)


def test_zoom_has_fastais_matrix():
    """The matrix is from fastai 2.8.12's `zoom_mat(draw=1.1, draw_x=0.25, draw_y=0.8)`."""
    expected = [[0.9090909, 0, -0.0454546], [0, 0.9090909, 0.0545455], [0, 0, 1]]
    np.testing.assert_allclose(geometry.zoom(one(1.1), one(0.25), one(0.8))[0], expected, atol=1e-6)


def test_the_eight_symmetries_are_eight_and_keep_the_square():
    matrices = np.asarray(geometry.dihedral(jnp.arange(8)))
    assert len({matrix.tobytes() for matrix in matrices + 0.0}) == 8
    np.testing.assert_array_equal(
        matrices @ matrices.transpose(0, 2, 1), np.tile(np.eye(3), (8, 1, 1))
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(20, 400), st.integers(20, 400), st.booleans(), PARTS, ANGLES)
def test_a_turned_square_stays_a_square_on_the_canvas(width, height, laid, place, degrees):
    """A rotation does not shear a picture, whatever its shape and even if it lies on its side."""
    frame = [[0, height, 0], [-width, 0, width], [0, 0, 1]] if laid else np.diag([width, height, 1])
    frame = jnp.array(frame, jnp.float32)[None]
    matrix = geometry.compose(
        frame, geometry.position(frame, one(place)), geometry.rotate(one(degrees))
    )[0, :2, :2]
    half = min(width, height) / 2
    np.testing.assert_allclose(matrix.T @ matrix, half**2 * np.eye(2), atol=1e-3 * half**2)


@settings(max_examples=25, deadline=None)
@given(st.integers(20, 400), st.integers(20, 400), PARTS, st.floats(0.1, 1), PARTS, PARTS)
def test_a_crop_stays_in_the_picture_and_has_its_area(width, height, place, area, x, y):
    frame = jnp.diag(jnp.array([width, height, 1.0]))[None]
    crop = geometry.crop(one(area), one(x), one(y))
    matrix = geometry.compose(geometry.position(frame, one(place)), crop)[0]
    corners = apply(matrix, np.array([[-1, -1], [1, 1]]))
    assert corners.min() >= -1e-5
    assert corners.max() <= 1 + 1e-5
    sides = (corners[1] - corners[0]) * (width, height)
    np.testing.assert_allclose(sides.prod(), area * min(width, height) ** 2, rtol=1e-3)


def quantiles_are_uniform(values, low, high):
    expected = low + (high - low) * np.array([0.1, 0.3, 0.5, 0.7, 0.9])
    np.testing.assert_allclose(
        np.quantile(values, [0.1, 0.3, 0.5, 0.7, 0.9]), expected, atol=0.02 * (high - low)
    )


def test_draws_have_fastais_distributions():
    """Each random operation is drawn with fastai's probability and range.

    Each is measured on 20,000 draws, where the standard error of a share is at most 0.0035.
    """
    n = 20_000
    flips = np.asarray(geometry.random_flip(draws(n, 2)))[:, 0, 0]
    assert abs((flips < 0).mean() - 0.5) < 0.012

    symmetries = np.asarray(geometry.random_dihedral(draws(n, 2))).reshape(n, 9)
    counts = np.unique(symmetries + 0.0, axis=0, return_counts=True)[1] / n
    np.testing.assert_allclose(np.sort(counts), [1 / 16] * 7 + [9 / 16], atol=0.012)

    turns = np.asarray(geometry.random_rotate(draws(n, 2), 10.0, 0.75))
    degrees = np.rad2deg(np.arctan2(turns[:, 1, 0], turns[:, 0, 0]))
    assert abs((degrees != 0).mean() - 0.75) < 0.012
    quantiles_are_uniform(degrees[degrees != 0], -10, 10)

    zooms = np.asarray(geometry.random_zoom(draws(n, 4), 0.9, 1.2, 0.75))
    factors = 1 / zooms[:, 0, 0]
    used = factors != 1
    assert abs(used.mean() - 0.75) < 0.012
    quantiles_are_uniform(factors[used], 0.9, 1.2)
    quantiles_are_uniform((zooms[used, 0, 2] / (1 - 1 / factors[used]) + 1) / 2, 0, 1)

    tilts = np.asarray(geometry.random_warp(draws(n, 4), 0.2, 0.75))
    untilted = (tilts[:, 2, :2] == 0).mean(axis=0)
    np.testing.assert_allclose(untilted, 0.25, atol=0.012)
    # If a picture is tilted about one axis only, the matrix's last row holds the drawn tilt, except
    # for its sign.
    alone = tilts[tilts[:, 2, 1] == 0][:, 2, 0]
    quantiles_are_uniform(alone[alone != 0], -0.2, 0.2)

    crops = np.asarray(geometry.random_crop(draws(n, 3), 0.75))
    quantiles_are_uniform(crops[:, 0, 0] ** 2, 0.75, 1)

    frame = jnp.tile(jnp.diag(jnp.array([12.0, 8.0, 1.0])), (n, 1, 1))
    left = np.asarray(geometry.random_position(draws(n, 1), frame))[:, 0, 2] - 1 / 3
    quantiles_are_uniform(left * 3, 0, 1)


def test_an_items_draw_depends_on_key_and_index_alone():
    key = jax.random.key(3)
    many = geometry.uniforms(key, jnp.arange(50), 5)
    few = geometry.uniforms(key, jnp.array([41, 7]), 5)
    np.testing.assert_array_equal(few, many[jnp.array([41, 7])])
    assert len(np.unique(many)) == many.size
    assert not np.isin(geometry.uniforms(jax.random.key(4), jnp.arange(50), 5), many).any()
