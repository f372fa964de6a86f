import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from jaxch5.augmentation import geometry
from jaxch5.augmentation.sample import gathering, local_scale, sample, subsamples_for

# Positions are rounded to 1/256 of a pixel. The error of at most 1/512 of a pixel along each axis
# changes a value by at most 1/512 of the full range.
TOLERANCE = 2 / 512
compiled = jax.jit(sample, static_argnames=("size", "subsamples", "dtype"))


def squares(photographs, on_canvas, side=64):
    """Returns a batch of the photographs' upper left squares, each of which fills its canvas."""
    return on_canvas([picture[:side, :side] for picture in photographs], side, side)


def drawn(batch, operation, size, run=compiled, **options):
    """Applies one operation to each picture's middle square; returns pictures and matrices."""
    operation = jnp.broadcast_to(operation, (len(batch.image), 3, 3))
    middle = geometry.position(batch.frame, jnp.full(len(batch.image), 0.5))
    matrix = geometry.compose(batch.frame, middle, operation, geometry.square(size))
    return np.asarray(run(batch.image, matrix, batch.frame, size, **options)), matrix


def floats(image):
    return np.asarray(image, np.float32) / np.float32(255)


def test_the_identity_changes_no_bit(photographs, on_canvas):
    batch = squares(photographs, on_canvas)
    pictures, _ = drawn(batch, jnp.eye(3), 64)
    np.testing.assert_array_equal(pictures, floats(batch.image))


@pytest.mark.parametrize("symmetry", range(8))
def test_flips_and_quarter_turns_are_dm_pixs_to_the_bit(photographs, on_canvas, symmetry):
    batch = squares(photographs, on_canvas)
    pictures, _ = drawn(batch, geometry.dihedral(jnp.full(1, symmetry)), 64)
    expected = jnp.asarray(floats(batch.image))
    if symmetry & 2:
        expected = jnp.stack([dm_pix.flip_up_down(one) for one in expected])
    if symmetry & 1:
        expected = jnp.stack([dm_pix.flip_left_right(one) for one in expected])
    if symmetry & 4:
        expected = jnp.stack([dm_pix.flip_up_down(dm_pix.rot90(one)) for one in expected])
    np.testing.assert_array_equal(pictures, expected)


@pytest.mark.parametrize(("turns", "symmetry"), [(1, 5), (2, 3), (3, 6)])
def test_quarter_turns_by_angle_are_dm_pixs_to_the_bit(photographs, on_canvas, turns, symmetry):
    batch = squares(photographs, on_canvas)
    expected = jnp.stack([dm_pix.rot90(jnp.asarray(one), k=turns) for one in floats(batch.image)])
    by_angle, _ = drawn(batch, geometry.rotate(jnp.full(1, 90.0 * turns)), 64)
    by_symmetry, _ = drawn(batch, geometry.dihedral(jnp.full(1, symmetry)), 64)
    np.testing.assert_array_equal(by_angle, expected)
    np.testing.assert_array_equal(by_symmetry, expected)


def index_matrix(matrix):
    """Returns the map from an output's (row, column) to a canvas's; pixel centres are integers."""
    centre = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    swap = np.eye(3)[[1, 0, 2]]
    return swap @ np.linalg.inv(centre) @ np.asarray(matrix, np.float64) @ centre @ swap


OPERATIONS = {
    "rotate": geometry.rotate(jnp.full(1, 23.0)),
    "zoom": geometry.zoom(jnp.full(1, 1.3), jnp.full(1, 0.2), jnp.full(1, 0.9)),
    "zoom out": geometry.zoom(jnp.full(1, 0.8), jnp.full(1, 0.5), jnp.full(1, 0.5)),
    "crop": geometry.crop(jnp.full(1, 0.4), jnp.full(1, 0.7), jnp.full(1, 0.1)),
    "rotate and zoom": geometry.compose(
        geometry.rotate(jnp.full(1, -71.0)),
        geometry.zoom(jnp.full(1, 1.7), jnp.full(1, 0.5), jnp.full(1, 0.3)),
    ),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_affine_operations_are_dm_pixs_inside_the_picture(photographs, on_canvas, name):
    batch = squares(photographs[:2], on_canvas)
    pictures, matrices = drawn(batch, OPERATIONS[name], 64)
    for picture, matrix, image in zip(pictures, matrices, floats(batch.image), strict=True):
        at = np.eye(4)
        at[np.ix_([0, 1, 3], [0, 1, 3])] = index_matrix(matrix)
        expected = np.asarray(dm_pix.affine_transform(jnp.asarray(image), jnp.asarray(at)))
        rows, columns = np.mgrid[:64, :64]
        source = index_matrix(matrix)[:2] @ np.stack(
            [rows.ravel(), columns.ravel(), np.ones(64 * 64)]
        )
        inside = ((source > 0) & (source < 63)).all(axis=0).reshape(64, 64)
        assert inside.mean() > 0.4
        assert np.abs(picture - expected)[inside].max() < TOLERANCE


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_and_reflection_are_scipys_everywhere(photographs, on_canvas, name):
    """All pixels equal SciPy's, including those reflected at the picture's edge.

    SciPy's mode "reflect" reflects at the outer edge of the last pixel, not at its centre.
    """
    batch = squares(photographs[:2], on_canvas)
    pictures, matrices = drawn(batch, OPERATIONS[name], 64)
    for picture, matrix, image in zip(pictures, matrices, floats(batch.image), strict=True):
        at = index_matrix(matrix)
        expected = np.stack(
            [
                ndimage.affine_transform(image[..., c], at, order=1, mode="reflect")
                for c in range(3)
            ],
            axis=-1,
        )
        assert np.abs(picture - expected).max() < TOLERANCE


def test_a_perspective_is_scipys_everywhere(photographs, on_canvas):
    batch = squares(photographs[:2], on_canvas)
    pictures, matrices = drawn(batch, geometry.warp(jnp.full(1, 0.2), jnp.full(1, -0.15)), 64)
    for picture, matrix, image in zip(pictures, matrices, floats(batch.image), strict=True):
        rows, columns = np.mgrid[:64, :64]
        y, x, w = index_matrix(matrix) @ np.stack([rows.ravel(), columns.ravel(), np.ones(64 * 64)])
        for c in range(3):
            expected = ndimage.map_coordinates(
                image[..., c], [y / w, x / w], order=1, mode="reflect"
            )
            assert np.abs(picture[..., c].ravel() - expected).max() < TOLERANCE


@pytest.mark.parametrize("size", [16, 24, 48, 64, 96])
def test_the_canvas_beyond_the_picture_is_never_seen(on_canvas, size):
    """Sampling far beyond the borders of grey pictures never meets the magenta of the canvas."""
    grey = [np.full(shape, 100, np.uint8) for shape in ((64, 70, 3), (90, 64, 3), (40, 50, 3))]
    batch = on_canvas(grey, 64, 96)
    out = geometry.zoom(jnp.full(1, 0.3), jnp.full(1, 0.5), jnp.full(1, 0.5))
    turned = geometry.compose(geometry.rotate(jnp.full(1, 37.0)), out)
    pictures, _ = drawn(batch, turned, size)
    np.testing.assert_allclose(pictures, 100 / 255, atol=1e-6)


def test_a_picture_laid_on_its_side_comes_out_upright(photographs, on_canvas):
    upright = [picture[: 66 + 2 * k, :64] for k, picture in enumerate(photographs)]
    upright = [picture for picture in upright if picture.shape[0] > 64]
    batch = on_canvas(upright, 64, 96)
    pictures, _ = drawn(batch, jnp.eye(3), 64)
    for picture, source in zip(pictures, upright, strict=True):
        top = (len(source) - 64) // 2
        np.testing.assert_array_equal(picture, floats(source[top : top + 64]))


def test_halving_is_the_mean_of_four_pixels(photographs, on_canvas):
    batch = squares(photographs, on_canvas)
    pictures, _ = drawn(batch, jnp.eye(3), 32)
    expected = floats(batch.image).reshape(-1, 32, 2, 32, 2, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(pictures, expected, atol=1e-6)


@pytest.mark.parametrize("size", [8, 13, 20, 30, 45])
def test_shrinking_leaves_no_stripes(on_canvas, size):
    """Stripes one pixel wide, which are finer than the output can show, are averaged away."""
    stripes = np.zeros((96, 96, 3), np.uint8)
    stripes[:, ::2] = 255
    batch = on_canvas([stripes], 96, 96)
    # Compiling a program with this many sub-samples takes longer than running its operations one by
    # one.
    pictures, _ = drawn(batch, jnp.eye(3), size, run=sample)
    bare, _ = drawn(batch, jnp.eye(3), size, run=sample, subsamples=1)
    assert pictures.std() < 0.5 * max(bare.std(), 0.2)
    np.testing.assert_allclose(pictures.mean(), 0.5, atol=0.03)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.5, 3), st.floats(-180, 180), st.floats(-0.2, 0.2), st.floats(-0.2, 0.2))
def test_local_scale_is_the_growth_of_a_small_square(scale, degrees, x, y):
    one = jnp.ones(1)
    matrix = geometry.compose(
        jnp.diag(jnp.array([scale * 32, scale * 32, 1.0]))[None],
        geometry.warp(x * one, y * one),
        geometry.rotate(degrees * one),
        geometry.square(64),
    )
    exact = np.asarray(matrix[0], np.float64)
    corners = exact @ np.array([[32, 33, 32], [32, 32, 33], [1, 1, 1]])
    corners = corners[:2] / corners[2]
    area = abs(np.linalg.det(corners[:, 1:] - corners[:, :1]))
    np.testing.assert_allclose(local_scale(matrix, 32.0)[0], np.sqrt(area), rtol=0.03)


def test_few_samples_where_nothing_shrinks():
    assert [subsamples_for(scale) for scale in (0.5, 1.25, 1.5, 2.1, 6.0)] == [1, 1, 2, 2, 4]


def test_a_picture_that_is_not_shrunk_is_the_same_with_more_samples(photographs, on_canvas):
    batch = squares(photographs, on_canvas)
    bare, _ = drawn(batch, OPERATIONS["crop"], 64, subsamples=1)
    more, _ = drawn(batch, OPERATIONS["crop"], 64, subsamples=2)
    np.testing.assert_array_equal(bare, more)


def test_bfloat16_is_the_rounded_float32(photographs, on_canvas):
    batch = squares(photographs, on_canvas)
    full, _ = drawn(batch, OPERATIONS["rotate"], 40)
    half, _ = drawn(batch, OPERATIONS["rotate"], 40, dtype=jnp.bfloat16)
    np.testing.assert_array_equal(half, jnp.asarray(full).astype(jnp.bfloat16))


@settings(max_examples=30, deadline=None)
@given(
    st.floats(0.3, 8), st.floats(0.3, 8), st.floats(0, 180), st.floats(0, 180), st.integers(2, 4)
)
def test_sub_samples_are_gathered_along_each_direction_by_its_own_scale(across, down, a, b, n):
    """In each direction, sub-samples move closer together as that direction's scale requires.

    They are never further apart than evenly spaced sub-samples would be. Along a direction in which
    an output pixel covers many canvas pixels, they are evenly spaced.
    """
    turns = (np.asarray(geometry.rotate(jnp.array([d])), np.float64)[0, :2, :2] for d in (a, b))
    matrix = next(turns) @ np.diag([across, down]) @ next(turns)
    _, scales, directions = np.linalg.svd(matrix)
    even = (1 - 1 / n**2) / 12
    factors = np.sqrt(np.clip((1 / 12 - 1 / 8 / scales**2) / even, 0, 1))
    expected = directions.T @ np.diag(factors) @ directions
    found = gathering(jnp.asarray(matrix, jnp.float32)[None], n)[0]
    # The tolerance is this large because square roots of float32 differences near zero are taken.
    np.testing.assert_allclose(found, expected, atol=3e-3)


@pytest.mark.parametrize("scale", [1.5, 1.9])
def test_a_sheared_picture_loses_no_more_by_gathered_sub_samples(photographs, scale):
    """If the matrix contains a shear, gathered sub-samples have a smaller error than evenly spaced.

    The picture is squished to two thirds of its width and turned. The error is the difference from
    the mean of 8x8 cubic samples.
    """
    squish = np.diag([1 / 1.5, 1, 1])
    turn = np.asarray(geometry.rotate(jnp.array([30.0])), np.float64)[0]
    linear = squish @ turn @ np.linalg.inv(squish) * scale
    size, middle = 16, 32.0
    matrix = np.eye(3)
    matrix[:2, :2] = linear[:2, :2]
    matrix[:2, 2] = middle - linear[:2, :2] @ [size / 2, size / 2]
    frame = jnp.diag(jnp.array([64.0, 64.0, 1.0]))[None]
    errors = {True: 0.0, False: 0.0}
    for picture in photographs:
        pixels = picture[:64, :64]
        fine = (np.arange(8 * size) + 0.5) / 8
        columns, rows = np.meshgrid(fine, fine)
        x, y, _ = np.tensordot(matrix, np.stack([columns, rows, np.ones_like(rows)]), 1)
        planes = [
            ndimage.map_coordinates(pixels[..., c] / 255, (y - 0.5, x - 0.5), order=3)
            for c in range(3)
        ]
        exact = np.stack(planes, -1).reshape(size, 8, size, 8, 3).mean((1, 3))
        for gathered in errors:
            arguments = jnp.asarray(pixels)[None], jnp.asarray(matrix, jnp.float32)[None], frame
            seen = sample(*arguments, size, subsamples=2, gathered=gathered)[0]
            errors[gathered] += float(np.mean((np.asarray(seen) - exact) ** 2))
    # A factor of 0.8 is about one decibel.
    assert errors[True] < 0.8 * errors[False]
