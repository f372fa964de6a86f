"""Tests that a picture is read alike in every form it may have, or is refused in one line."""

import io
import os
import tempfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from jaxch5.data.block import DataBlock
from jaxch5.data.decode import decode
from jaxch5.data.picture import many, read_picture
from jaxch5.data.source import Source, from_arrays, read_pixels
from jaxch5.data.split import random_split
from jaxch5.errors import DataError


def png(pixels, mode=None, **saved):
    file = io.BytesIO()
    Image.fromarray(pixels, mode).save(file, "PNG", **saved)
    return file.getvalue()


@st.composite
def pixels_of_any_kind(draw):
    """Draws the pixels of a picture that is grey or RGB, with or without alpha."""
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    channels = draw(st.sampled_from([(), (1,), (2,), (3,), (4,)]))
    generator = np.random.default_rng(draw(st.integers(0, 1000)))
    return generator.integers(0, 256, (*shape, *channels)).astype(np.uint8)


# Functions that turn pixels into the different forms that a picture may have.
FORMS = {
    "an array": lambda pixels: pixels,
    "wide integers": lambda pixels: pixels.astype(np.int64),
    "another order in memory": np.asfortranarray,
    "mirrored twice": lambda pixels: np.ascontiguousarray(pixels[::-1])[::-1],
    "not to be written": lambda pixels: np.frombuffer(pixels.tobytes(), np.uint8).reshape(
        pixels.shape
    ),
    "a JAX array": jnp.asarray,
    "lists": lambda pixels: pixels.tolist(),
    "rows in a tuple": tuple,
    "Pillow's": lambda pixels: (
        Image.fromarray(np.squeeze(pixels, 2))
        if pixels.shape[2:] == (1,)
        else Image.fromarray(pixels)
    ),
    "a content": lambda pixels: encoded(pixels),
    "a bytearray": lambda pixels: bytearray(encoded(pixels)),
    "a view": lambda pixels: memoryview(encoded(pixels)),
    "an open file": lambda pixels: io.BytesIO(encoded(pixels)),
}


def encoded(pixels):
    return png(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)


@pytest.mark.parametrize("form", FORMS)
@given(pixels_of_any_kind())
def test_every_form_is_the_picture_that_its_file_is(form, pixels):
    expected = decode(encoded(pixels))
    given_form = FORMS[form](pixels)
    read = read_picture(given_form)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, expected)
    source = from_arrays([FORMS[form](pixels)] * 2, [0, 1], ["a", "b"])
    for _ in range(2):
        np.testing.assert_array_equal(read_pixels(source, 1), expected)


@given(pixels_of_any_kind())
def test_one_array_of_many_is_as_a_list_of_them(pixels):
    stack = np.stack([pixels, pixels])
    for images in (stack, jnp.asarray(stack), stack.astype(int), list(stack)):
        source = from_arrays(images, [0, 1], ["a", "b"])
        np.testing.assert_array_equal(source.read(1), decode(encoded(pixels)))


def test_a_path_may_begin_at_home_and_an_array_may_lie_on_a_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    pixels = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    (tmp_path / "a.png").write_bytes(png(pixels))
    for path in ("~/a.png", tmp_path / "a.png", Path("~/a.png")):
        np.testing.assert_array_equal(read_picture(path), pixels)
    kept = np.memmap(tmp_path / "all", np.uint8, "w+", shape=(2, 3, 4, 3))
    kept[1] = pixels
    np.testing.assert_array_equal(from_arrays(kept, [0, 1], ["a", "b"]).read(1), pixels)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_pillows_pictures_of_any_mode_are_taken(mode):
    """The picture's colours are read as far as the mode can hold them."""
    levels = np.indices((6, 8)).astype(np.uint8)
    colours = np.stack([40 * levels[0], 30 * levels[1], np.full((6, 8), 200)], axis=-1)
    if mode in ("1", "L", "LA"):
        colours = 255 * (colours[..., :1] > 100).repeat(3, axis=-1)
    image = Image.fromarray(colours.astype(np.uint8)).convert(mode)
    read = read_picture(image)
    assert read.shape == (6, 8, 3)
    # The levels of a palette are 51 apart; other modes round a little.
    assert np.abs(read.astype(int) - colours).max() <= (51 if mode in ("P", "PA") else 4)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_pillows_pictures_stand_as_their_files_do(form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.linear_gradient("L").resize((40, 24)).convert("RGB").save(file, form, exif=exif)
    opened = read_picture(Image.open(io.BytesIO(file.getvalue()))).astype(int)
    expected = decode(file.getvalue()).astype(int)
    assert opened.shape == expected.shape
    assert np.abs(opened - expected).max() <= 2


class Elsewhere:
    """Acts like an array on an accelerator, which must be copied to the host before it is read."""

    def __array__(self, *args, **kwargs):
        raise TypeError("can't convert cuda:0 device type tensor to numpy\nsecond line")


def closed():
    file = io.BytesIO(b"GIF")
    file.close()
    return file


def cut():
    content = png(np.random.default_rng(0).integers(0, 256, (90, 90, 3)).astype(np.uint8))
    return Image.open(io.BytesIO(content[:5000]))


REFUSED = {
    "floats": (np.full((4, 4), 0.5), r"float64 \[4, 4\].*from 0.5 to 0.5; if 1 is white, give np"),
    "no number": (np.full((4, 4, 3), np.nan), "float64.*nan"),
    "a JAX array of floats": (jnp.ones((4, 4, 3)), "float32"),
    "16 bits": (np.full((4, 4), 200, np.uint16), "is uint16"),
    "too large": ([[0, 256]], "runs from 0 to 256"),
    "below zero": ([[-1, 5]], "runs from -1 to 5"),
    "no rows": (np.zeros((0, 4, 3), np.uint8), r"\[0, 4, 3\], so it has no pixels"),
    "no columns": (np.zeros((4, 0), np.uint8), "has no pixels"),
    "channels first": (np.zeros((3, 8, 9), np.uint8), "move its channels to the end"),
    "many channels": (np.zeros((8, 9, 5), np.uint8), r"\[8, 9, 5\]; should be"),
    "many pictures": (np.zeros((2, 8, 9, 3), np.uint8), r"\[2, 8, 9, 3\]; should be"),
    "a row": ([1, 2, 3], r"shape \[3\]"),
    "a number": (7, r"shape \[\]"),
    "rows of two lengths": ([[1], [1, 2]], "list cannot be read as pixels"),
    "words": ([["a", "b"]], "list is not a picture; give a path"),
    "nothing": (None, "NoneType is not a picture; give a path"),
    "a dictionary": ({}, "dict is not a picture"),
    "elsewhere": (Elsewhere(), "Elsewhere cannot be read as pixels .can't convert cuda:0"),
    "an empty content": (b"", "is an empty file"),
    "text": (b"Dear diary", "is not a picture in a known format"),
    "a text file": (io.StringIO("Dear diary"), "is open as text; open it with mode 'rb'"),
    "a closed file": (closed(), "closed file"),
    "a missing file": ("no/such.jpg", "no/such.jpg: No such file"),
    "a folder": (tempfile.gettempdir(), "Is a directory"),
    "a zero byte": ("a\0b.jpg", "null"),
    "a home of nobody": ("~nobody-of-that-name/a.jpg", "home"),
    "an address": ("https://example.org/a.jpg", "is an address; fetch it"),
    "a content as text": ("iVBORw0KGgo" * 1000, "File name too long"),
    "one of Pillow's that is cut": (cut(), "cannot be decoded"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_picture_is_one_line(kind):
    picture, reason = REFUSED[kind]
    with pytest.raises(DataError, match=reason) as error:
        read_picture(picture)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


LATER = {"an empty content", "text", "a missing file", "a folder", "a zero byte", "an address"} | {
    "a content as text",
    "a home of nobody",
}


@pytest.mark.parametrize("kind", sorted(REFUSED.keys() - LATER))
def test_from_arrays_refuses_at_once_what_needs_no_decoding(kind):
    """`from_arrays` refuses such a picture by name, so that no epoch fails because of it."""
    good = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(DataError, match="image 000000001: "):
        from_arrays([good, REFUSED[kind][0]], [0, 1], ["a", "b"])


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        ("ab", "images is a single picture"),
        (np.zeros((2, 8), np.uint8), r"images: has shape \[8\]"),
        (np.zeros((2, 3, 8, 9), np.uint8), r"images: has shape \[3, 8, 9\]; move its channels"),
        (np.zeros((2, 8, 9, 3)), "images: is float64"),
        (np.zeros((2, 8, 9, 3), np.uint16), "images: is uint16"),
        ((image for image in np.zeros((2, 8, 8), np.uint8)), "generator, which cannot be read"),
        (Elsewhere(), "Elsewhere"),
        (None, "NoneType"),
    ],
)
def test_from_arrays_refuses_what_holds_no_pictures(images, reason):
    with pytest.raises(DataError, match=reason):
        from_arrays(images, [0, 1], ["a", "b"])


def test_a_source_of_ones_own_may_give_any_form():
    eye = bytearray(png((255 * np.eye(4)).astype(np.uint8)))
    forms = [Image.new("L", (4, 3), 9), np.full((3, 4), 8, np.uint8), eye, 7.5]
    source = Source(("a",), np.zeros(4, int), [*"wxyz"], forms.__getitem__)
    for item, shown in enumerate([np.full((3, 4), 9), np.full((3, 4), 8), 255 * np.eye(4)]):
        np.testing.assert_array_equal(read_pixels(source, item), np.stack([shown] * 3, axis=-1))
    with pytest.raises(DataError, match="z: has shape"):
        read_pixels(source, 3)
    two = Source(("a", "b"), np.arange(8) % 2, [*"stuvwxyz"], lambda item: forms[item % 3])
    data = DataBlock(two, random_split(0.5), presize=4, size=4).load(2)
    assert any(line.startswith("sizes ") for line in data.stages())


def test_one_picture_is_not_taken_for_many():
    """A path, an array or an open file is one picture, although each can be iterated over."""
    ones = [
        "a.jpg",
        Path("a.jpg"),
        b"GIF",
        bytearray(b"GIF"),
        memoryview(b"GIF"),
        io.BytesIO(b"GIF"),
        Image.new("L", (4, 3)),
        np.zeros((8, 9), np.uint8),
        np.zeros((8, 9, 3), np.uint8),
        jnp.zeros((8, 9, 4), jnp.uint8),
        np.zeros((8, 9, 3), np.uint8).tolist(),
        [[1, 2], [3, 4]],
    ]
    for one in ones:
        assert len(list(many(one))) == 1
        assert next(iter(many(one))) is one
    several = [["a.jpg"], np.zeros((5, 8, 9), np.uint8), np.zeros((5, 8, 9, 3), np.uint8), [], {}]
    for pictures in several:
        assert many(pictures) is pictures
    for nothing in (None, 7):
        with pytest.raises(DataError, match="give a list of them"):
            many(nothing)


def test_paths_may_be_objects_of_others():
    class Entry(os.PathLike):
        def __fspath__(self):
            return "no/such.jpg"

    with pytest.raises(DataError, match=r"no/such\.jpg: No such file"):
        read_picture(Entry())
