"""A picture of more than 8 bits keeps its range in every form, or is refused in one line."""

import io

import numpy as np
import pytest
from PIL import Image

from jaxch5.data.decode import Reading, decode
from jaxch5.data.picture import held, read_picture
from jaxch5.data.source import from_arrays, read_pixels, with_range
from jaxch5.data.sources.folder import from_folder
from jaxch5.errors import DataError

RAMP = np.linspace(0, 1, 12).reshape(3, 4)
SHADES = np.round(255 * RAMP)


def image(dtype, white, low=0.0):
    """Returns a ramp in shades of grey as one of Pillow's pictures."""
    return Image.fromarray((low + (white - low) * RAMP).astype(dtype))


def file_of(picture, form):
    file = io.BytesIO()
    picture.save(file, form)
    return file.getvalue()


def opened(picture, form):
    return Image.open(io.BytesIO(file_of(picture, form)))


FORMS = {
    "made": lambda picture: picture,
    "opened": lambda picture: opened(picture, "TIFF"),
    "file": lambda picture: file_of(picture, "TIFF"),
}
# For each kind of pixels, the value that is white by default.
WHITE = {"uint16": 65535, "int32": 65535, "float32": 1}


@pytest.mark.parametrize("dtype", WHITE)
@pytest.mark.parametrize("form", FORMS)
def test_the_range_is_kept_in_every_form(form, dtype):
    """A picture of Pillow's is read as its file is, both by default and with a scale."""
    give = FORMS[form]
    assert np.abs(read_picture(give(image(dtype, WHITE[dtype])))[..., 0] - SHADES).max() <= 1
    for text in ("4095", "auto integers 0,4095 floats 0,4095"):
        reading = Reading(text)
        # `held` is what `predict_many` does with a picture before it reads it.
        for picture in (give(image(dtype, 4095)), held(give(image(dtype, 4095)), reading)):
            pixels = read_picture(picture, reading=reading)
            assert np.abs(pixels[..., 0] - SHADES).max() <= 1


OTHER_SCALES = {
    "floats up to 255": ("float32", 0, 255),
    "floats below zero": ("float32", -1, 1),
    "integers of 8 bits in 32": ("int32", 0, 255),
    "integers of more than 16 bits": ("int32", 0, 100_000),
    "integers below zero": ("int32", -1024, 3071),
}


@pytest.mark.parametrize("kind", OTHER_SCALES)
@pytest.mark.parametrize("form", FORMS)
def test_another_scale_is_refused_and_not_clipped(form, kind):
    """Unless its scale is stated, a picture of another scale is refused, and not read as white."""
    dtype, low, white = OTHER_SCALES[kind]
    picture = FORMS[form](image(dtype, white, low))
    line = f"is stored as {dtype} from {low} to .*, which does not fit 0 as black and .*; "
    with pytest.raises(DataError, match=f"^picture: {line}.*--data.range"):
        read_picture(picture)
    read = read_picture(picture, reading=Reading(f"{low},{white}"))
    assert np.abs(read[..., 0] - SHADES).max() <= 1
    good = np.zeros((3, 4), np.uint8)
    # Pictures that Pillow has decoded are read before a source exists whose scale could be set.
    way_out = "set both" if form == "file" else "convert the picture to 8 bits$"
    with pytest.raises(DataError, match=f"image 000000001: {line}{way_out}"):
        read_pixels(from_arrays([good, picture], [0, 1], ["a", "b"]), 1)


def test_from_arrays_decodes_deep_pictures_once_and_refuses_another_scale_at_once():
    """The error does not name the option that sets the scale, since Python has no such option."""
    good, other = image("float32", 1), image("float32", 255)
    line = (
        "^image 000000001: is stored as float32 from 0 to 255, which does not fit 0 as black and 1 "
        "as white; convert the picture to 8 bits$"
    )
    with pytest.raises(DataError, match=line):
        from_arrays([good, other], [0, 1], ["a", "b"])
    source = from_arrays([good, good], [0, 1], ["a", "b"])
    assert np.abs(source.read(0)[..., 0] - SHADES).max() <= 1
    assert source.read(0) is source.read(0)


def test_a_guess_does_not_turn_a_picture_of_another_scale_white(tmp_path):
    """Highlights beyond the guess are clipped, but a picture of another scale is refused."""
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.tif").write_bytes(file_of(image("float32", 1), "TIFF"))
    source = with_range(from_folder(tmp_path))
    assert source.reading.range == "auto floats 0,1"
    assert decode(file_of(image("float32", 1.9), "TIFF"), reading=source.reading).max() == 255
    with pytest.raises(DataError, match="from 0 to 255, which does not fit 0 as black and 1 as wh"):
        decode(file_of(image("float32", 255), "TIFF"), reading=source.reading)
    assert decode(file_of(image("float32", 255), "TIFF"), reading=Reading("1")).max() == 255


def test_the_depth_that_a_format_states_is_obeyed():
    """Pillow scales a PGM's values up to 16 bits, so the set's scale does not apply to them."""
    content = b"P5 4 3 4095\n" + np.round(4095 * RAMP).astype(">u2").tobytes()
    for picture in (content, Image.open(io.BytesIO(content))):
        for text in ("auto", "auto integers 0,255"):
            pixels = read_picture(picture, reading=Reading(text))
            assert np.abs(pixels[..., 0] - SHADES).max() <= 1
