"""Crop, squish and pad give pictures the shape of the network's input, square or not."""

import functools
import io
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

import jaxch5 as jx
from jaxch5.augmentation import geometry
from jaxch5.augmentation.policy import draw, random_matrix
from jaxch5.batch import without_labels
from jaxch5.cli import Options, parse
from jaxch5.config.settings import Config, from_toml, to_toml
from jaxch5.data.image import presize
from jaxch5.data.packing import pack
from jaxch5.data.sources.packed import from_packed
from jaxch5.data.summary import unseen
from jaxch5.errors import ConfigError
from jaxch5.framing import METHODS, PAD_MODES, Framing
from jaxch5.results.artifacts import as_learner, as_stablehlo, description_of
from jaxch5.view import View

WHOLE = ("squish", "pad")
MARKERS = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)], np.uint8)
STILL = jx.aug_transforms(
    do_flip=False, max_rotate=0, max_zoom=1, max_lighting=0, max_warp=0, min_scale=1
)


def marked(upright: bool) -> np.ndarray:
    """Returns a grey picture with a mark in each corner.

    Its long side is six times its short side; `upright` makes the long side vertical.
    """
    picture = np.full((40, 240, 3), 110, np.uint8)
    for marker, (row, column) in zip(MARKERS, np.ndindex(2, 2), strict=True):
        picture[-12 * row :, -12 * column :][:12, :12] = marker
    return np.rot90(picture) if upright else picture


class Marks(nn.Module):
    """A network that predicts which marks it sees; the fifth class stands for no mark."""

    @nn.compact
    def __call__(self, x, train):
        x = x * jnp.array([0.229, 0.224, 0.225]) + jnp.array([0.485, 0.456, 0.406])
        distance = jnp.abs(x[..., None, :] - MARKERS / 255).max(-1)
        seen = (distance.min((1, 2)) < 0.25) * self.param("scale", lambda key: jnp.full(1, 40.0))
        return jnp.concatenate([seen, jnp.full_like(seen[:, :1], 20.0)], axis=1)


def source_of(pictures):
    labels = np.arange(len(pictures)) % 5
    return jx.from_arrays(pictures, labels, ["red", "green", "blue", "yellow", "none"])


def data_of(method, pad_mode="reflection", size=(48, 64), cache="off", augment=STILL, source=None):
    source = source or source_of([marked(number % 2 == 1) for number in range(10)])
    block = jx.DataBlock(
        source,
        jx.random_split(0.5, stratify=True),
        72,
        size,
        augment,
        method=method,
        pad_mode=pad_mode,
    )
    return block.load(5, cache=cache)


def learner_of(data):
    return jx.vision_learner(data, Marks(), "none", say=lambda line: None)


def assert_all_seen(probabilities):
    np.testing.assert_allclose(
        probabilities, np.broadcast_to([0.25] * 4 + [0], np.shape(probabilities)), atol=1e-3
    )


@pytest.mark.parametrize("pad_mode", [*PAD_MODES, "#20c0ff"])
@pytest.mark.parametrize("method", WHOLE)
def test_every_corner_is_seen_in_training_and_in_validation(method, pad_mode):
    """Squish and pad keep all corners of a picture, in training and in validation.

    This holds wherever training places the picture, and with every cache.
    """
    for cache in ("off", "memory", "device"):
        data = data_of(method, pad_mode, cache=cache)
        learn = learner_of(data)
        np.testing.assert_allclose(
            learn.get_preds()[0], np.tile([0.25] * 4 + [0], (5, 1)), atol=1e-3
        )
        seen = learn.predictor().probabilities(
            jx.augment(data.augment, next(iter(data.train)), jax.random.key(3), data.size)
        )
        assert_all_seen(seen)


@pytest.mark.parametrize("method", WHOLE)
def test_every_corner_is_seen_by_what_leaves_the_learner(method, tmp_path):
    """All corners are seen by a loaded learner's predictions and by the exported program.

    The pictures that `interpret` returns show all corners too.
    """
    data = data_of(method)
    learn = learner_of(data)
    file = tmp_path / "marks.safetensors"
    file.write_bytes(as_learner(learn.predictor()))
    loaded = jx.load_learner(file, model=Marks())
    assert (loaded.about.method, loaded.about.size) == (method, (48, 64))
    program = jax.export.deserialize(bytearray(as_stablehlo(loaded)))
    said = json.loads(program.fun_name)
    assert (said["method"], said["crop"], said["size"]) == (method, "none", [48, 64])
    for upright in (False, True):
        picture = marked(upright)
        assert_all_seen(loaded.predict(picture).probabilities)
        canvas, frame = presize(picture, said["presize"], method=method)
        sides = np.int32([[frame[1, 1], frame[0, 0]]])
        (probabilities,) = program.call(canvas[None], *([sides] if method == "pad" else []))
        assert_all_seen(probabilities)
        np.testing.assert_allclose(probabilities, loaded.predict(picture).probabilities, atol=1e-5)
    for item in range(2):
        shown = learn.interpret().pictures(item)
        assert shown.shape == (144, 192, 3)
        for marker in MARKERS / 255:
            assert np.abs(shown - marker).max(-1).min() < 0.25


def test_a_crop_of_a_long_picture_sees_none_of_its_corners():
    """A crop cuts off all corners of a long picture, which is why squish and pad exist.

    Crop is also the default, so it applies to runs that are older than the setting.
    """
    learn = learner_of(data_of("crop"))
    assert learn.get_preds()[0][:, 4] == pytest.approx(1, abs=1e-3)
    said = description_of(learn.predictor())
    assert (said["method"], said["crop"]) == ("crop", "center")
    assert Framing() == Framing("crop", "reflection")


@settings(max_examples=20, deadline=None)
@given(st.integers(3, 12), st.sampled_from([13, 24]), st.booleans())
def test_padding_is_numpys_to_the_bit(short, side, upright):
    short += (side - short) % 2
    picture = np.random.default_rng(short).integers(0, 256, (short, side, 3), np.uint8)
    picture = np.rot90(picture) if upright else picture
    around = [((side - length) // 2,) * 2 for length in picture.shape[:2]] + [(0, 0)]
    modes = {"reflection": "symmetric", "border": "edge", "zeros": "constant"}
    canvas, frame = presize(picture, side, method="pad")
    for mode, numpys in modes.items():
        batch = jx.batch.without_labels(canvas[None], frame[None], Framing("pad", mode))
        padded = np.asarray(jx.center(batch, side))[0] * 255
        wanted = np.pad(picture, around, numpys)
        np.testing.assert_array_equal(np.round(padded, 2), wanted, mode)


SIDES = st.integers(10, 400)


@functools.cache
def drawn_matrix(policy, size, method):
    """Returns a compiled function that computes a random matrix.

    Compiling the function takes less time than a single call without compilation.
    """

    @jax.jit
    def matrix(key, index, frame):
        return random_matrix(policy, draw(key, index), frame, size, Framing(method))

    return matrix


def in_picture(width, height, method, size, policy, seed, index=0):
    """Returns the matrix from the output's pixels to those of the original picture."""
    canvas = {"crop": (144, 96), "pad": (96, 96), "squish": (96, 96)}[method]
    if method == "squish":
        frame = width / height * np.diag([*canvas, height / width])
        frame[2, 2] = width / height
    else:
        fit = min(canvas[0] / width, canvas[1] / height)
        frame = np.diag([width * fit, height * fit, 1.0])
    frame = frame.astype(np.float32)[None]
    matrix = drawn_matrix(policy, size, method)(jax.random.key(seed), np.array([index]), frame)[0]
    matrix = np.diag([width, height, 1.0]) @ np.linalg.inv(frame[0].astype(float)) @ matrix
    return matrix / matrix[2, 2]


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=25, deadline=None)
@given(SIDES, SIDES, st.sampled_from([32, (24, 40), (40, 24)]), st.integers(0, 9))
def test_a_turn_is_one_of_the_picture_and_not_of_what_is_made_of_it(
    method, width, height, size, seed
):
    """A random turn rotates the picture itself, without shear, with every method and shape."""
    turn = jx.aug_transforms(
        do_flip=False, max_rotate=180, max_zoom=1, max_lighting=0, max_warp=0, p_affine=1
    )
    turned, still = (
        in_picture(width, height, method, size, policy, seed)[:2, :2] for policy in (turn, STILL)
    )
    rotation = turned @ np.linalg.inv(still)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(2), atol=1e-3)
    assert np.linalg.det(rotation) > 0
    rows, columns = (size, size) if isinstance(size, int) else size
    if method == "squish":
        np.testing.assert_allclose(still, np.diag([width / columns, height / rows]), rtol=1e-4)
    else:
        np.testing.assert_allclose(still, still[0, 0] * np.eye(2), rtol=1e-4, atol=1e-4)
        fit = max if method == "pad" else min
        assert still[0, 0] == pytest.approx(fit(width / columns, height / rows), rel=1e-3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [32, (24, 40)])
def test_each_of_the_eight_symmetries_shows_as_much(method, size):
    """With crop, no flip or quarter turn shows a border; otherwise, none cuts off anything.

    A picture is framed only after it is turned.
    """
    policy = jx.aug_transforms(flip_vert=True, max_rotate=0, max_zoom=1, max_lighting=0, max_warp=0)
    width, height = 120, 70
    rows, columns = (size, size) if isinstance(size, int) else size
    found = set()
    for index in range(60):
        matrix = in_picture(width, height, method, size, policy, 0, index)
        corners = (matrix @ np.array([[0, columns], [0, rows], [1, 1]]))[:2]
        low, high = corners.min(1), corners.max(1)
        found.add(tuple(np.sign(np.round(matrix[:2, :2], 4)).ravel()))
        if method == "crop":
            assert (low > -1e-3).all()
            assert (high < np.array([width, height]) + 1e-3).all()
        else:
            assert (low < 1e-3).all()
            assert (high > np.array([width, height]) - 1e-3).all()
        if method == "squish":
            np.testing.assert_allclose([*low, *high], [0, 0, width, height], atol=1e-3)
    assert len(found) == 8


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from([16, 19, 24]),
    st.integers(24, 90),
    st.booleans(),
    st.sampled_from([16, (8, 16)]),
)
def test_what_is_never_seen_is_what_the_line_says(short, long, upright, size):
    """`unseen` returns the shares of pixels that training and validation really never see.

    Each value of the picture gives its position along the long side, so that the range of the
    values in the output shows what was seen.
    """
    ramp = np.round(np.linspace(0, 255, long))
    picture = np.repeat(np.broadcast_to(ramp, (short, long))[..., None], 3, 2).astype(np.uint8)
    picture = np.rot90(picture) if upright else picture
    canvas, frame = presize(picture, short)
    count = 200
    rows = [np.repeat(part[None], count, 0) for part in (canvas, frame)]
    index = np.arange(count, dtype=np.int32)
    batch = jx.Batch(*rows, index, index, index >= 0)
    training, validation = unseen(np.array([picture.shape[1::-1]]), size, augmented=True)
    drawn = np.asarray(jx.augment(STILL, batch, jax.random.key(0), size)) * 255
    middle = np.asarray(jx.center(batch, size))[0] * 255
    # `spread` is the share seen along the long side, `across` the share seen along the short side.
    height, width = (size, size) if isinstance(size, int) else size
    along = width / height if not upright else height / width
    across = min(1.0, min(1.5 * short, long) / (short * along))
    spread = (np.ptp(middle) / 255 * long + min(short * along, long) / max(width, height)) / long
    assert 1 - validation == pytest.approx(spread * across, abs=0.12)
    assert 1 - training == pytest.approx(np.ptp(drawn) / 255, abs=0.12)
    assert unseen(np.array([picture.shape[1::-1]]), size, augmented=False) == (validation,) * 2


def test_the_line_about_the_data_says_it_and_the_summary_too():
    line = "training never sees 75.0 % of the pixels, validation 83.3 %"
    data = data_of("crop", size=48)
    assert line in data.describe()
    assert any(row.startswith(f"unseen    crop: {line}") for row in data.stages())
    for method in WHOLE:
        data = data_of(method, size=48)
        assert f"({method}: every pixel is seen)" in data.describe()
        assert f"unseen    {method}: every pixel is seen" in [*data.stages()]


def test_training_says_it_if_much_is_never_seen():
    """Photographs of the usual shapes lose less; the other methods lose nothing."""
    said = "75.0 % of the pixels, validation 83.3 % (--data.method squish or pad keeps them)"
    assert f"training never sees {said}" in data_of("crop", size=48).outline()
    unadvised = data_of("crop", size=48).outline(advise=False)
    assert f"training never sees {said.partition(' (')[0]}" in unadvised
    photographs = source_of([np.zeros((60, 80, 3), np.uint8)] * 10)
    for method, source in (("crop", photographs), ("squish", None), ("pad", None)):
        assert len(data_of(method, size=48, source=source).outline()) == 1


def test_a_packed_set_is_whole_or_refused(tmp_path):
    """A set packed for crop is refused with squish and pad, since the pictures' ends are lost.

    A set packed for pad contains whole pictures, and works with every method.
    """
    source = source_of([marked(number % 2 == 1) for number in range(10)])
    quiet = Console(file=io.StringIO())
    pack(source, tmp_path / "cut", 72, console=quiet)
    pack(source, tmp_path / "whole", 72, method="pad", console=quiet)
    for method in WHOLE:
        refusal = rf"method = {method}: .*packed for method = crop"
        with pytest.raises(ConfigError, match=refusal) as caught:
            data_of(method, source=from_packed(tmp_path / "cut"))
        assert "\n" not in str(caught.value)
        data = data_of(method, source=from_packed(tmp_path / "whole"))
        assert data.valid.canvases([0])[1] == pytest.approx(data_of(method).valid.canvases([0])[1])
        probabilities = learner_of(data).get_preds()[0]
        assert_all_seen(probabilities)
    cut, whole = (
        data_of("crop", source=from_packed(tmp_path / name)).valid.canvases([0])
        for name in ("cut", "whole")
    )
    assert cut[1] == pytest.approx(whole[1])


@pytest.mark.parametrize("size", ["64x48", [64, 48], (64, 48)])
def test_a_size_of_two_sides_is_height_by_width(size, tmp_path):
    config = Config.model_validate({"data": {"size": size, "presize": 72, "method": "pad"}})
    assert config.data.size == (64, 48)
    (tmp_path / "config.toml").write_text(to_toml(config))
    assert 'size = "64x48"' in to_toml(config)
    assert from_toml(tmp_path / "config.toml") == config
    assert next(iter(data_of("crop", size=(64, 48)).train)).image.shape == (5, 72, 108, 3)
    batch = next(iter(data_of("crop", size=(64, 48)).train))
    assert jx.center(batch, (64, 48)).shape == (5, 64, 48, 3)


@pytest.mark.parametrize("size", ["64x", "axb", "4x64", "5000", "1x2x3", "-64", ""])
def test_a_size_that_is_none_is_refused(size):
    with pytest.raises(ValueError, match=r"data\.size = .*should be"):
        Config.model_validate({"data": {"size": size}})


def test_methods_that_are_none_are_refused():
    for wrong in ({"method": "stretch"}, {"pad_mode": "wrap"}, {"pad_mode": "#12345"}):
        with pytest.raises(ConfigError, match="should be one of"):
            jx.DataBlock(jx.digits(), jx.random_split(), 40, 32, **wrong)
    with pytest.raises(ConfigError, match="presize = 40, size = "):
        jx.DataBlock(jx.digits(), jx.random_split(), 40, (32, 48))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_colour_is_seen_beyond_the_border_and_nowhere_else(interpolation):
    """With `pad_mode = #ff8000`, the rows beyond the picture are orange and its own rows are not.

    A grey picture of 3:1 fills the middle third of the rows.
    """
    canvas, frame = presize(np.full((32, 96, 3), 128, np.uint8), 96, method="pad")
    batch = without_labels(canvas[None], frame[None], Framing("pad", "#ff8000"))
    seen = 255 * np.asarray(jx.center(batch, 48, view=View(1.0, interpolation))[0])
    orange = np.broadcast_to([255, 128, 0], (48, 48, 3)).astype(float)
    orange[17:31] = 128
    # At the edges of the grey rows, the filter mixes both colours.
    sharp = np.r_[0:14, 18:30, 34:48]
    np.testing.assert_allclose(seen[sharp], orange[sharp], atol=1e-3)


def test_a_squished_frame_tells_the_pictures_shape():
    canvas, frame = presize(np.zeros((10, 30, 3), np.uint8), 16, method="squish")
    assert canvas.shape == (16, 16, 3)
    np.testing.assert_allclose(np.divide(*geometry.sides(frame[None])), 3.0)
    np.testing.assert_allclose((frame @ [1, 1, 1])[:2] / frame[2, 2], 16)


@pytest.mark.parametrize(
    ("words", "size"),
    [
        (["--data.size", "40x24"], (40, 24)),
        (["--data.size=40,24"], (40, 24)),
        (["--data.size", "24x24"], 24),
        (["--data.size", "16", "--data.size", "40x24"], (40, 24)),
        (["--data.size", "40x24", "--data.size", "16"], 16),
    ],
)
def test_a_size_on_the_command_line_is_one_word_and_the_last_counts(words, size):
    assert parse(Options, [*words, "--data.presize", "40"], "test").settings().data.size == size
