"""Tests that folders are searched by file extensions, and files are read by their first bytes."""

import io
import re
import sys

import numpy as np
import pytest
from PIL import Image

from jaxch5.data.decode import Reading, look_at
from jaxch5.data.formats import OPENERS, ORIENTATION, SUFFIXES, SUFFIXES_OF, format_of
from jaxch5.data.image import decode
from jaxch5.data.sources.folder import from_folder
from jaxch5.errors import DataError

COLOURS = [(200, 40, 40), (40, 180, 40), (40, 40, 190), (120, 120, 120)]
OPTIONS = {
    "JPEG": {"quality": 95},
    "WEBP": {"quality": 95},
    "AVIF": {"quality": 95},
    "JPEG2000": {"quality_mode": "dB", "quality_layers": [45]},
}


def quarters() -> Image.Image:
    pixels = np.zeros((64, 96, 3), np.uint8)
    for number, colour in enumerate(COLOURS):
        row, column = divmod(number, 2)
        pixels[32 * row : 32 * row + 32, 48 * column : 48 * column + 48] = colour
    return Image.fromarray(pixels)


def encoded(form: str) -> bytes:
    file = io.BytesIO()
    if form == "HEIF":
        heif = pytest.importorskip("pillow_heif")
        heif.from_pillow(quarters()).save(file, quality=95)
    else:
        quarters().save(file, form, **OPTIONS.get(form, {}))
    return file.getvalue()


@pytest.mark.parametrize("form", SUFFIXES_OF)
def test_every_ending_is_a_picture_and_its_content_is_read(form, tmp_path):
    """The extension may be in any case, or that of another format: the first bytes decide."""
    content = encoded(form)
    assert format_of(content) == form
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    for number, suffix in enumerate(SUFFIXES_OF[form]):
        (tmp_path / "a" / f"{number}{suffix}").write_bytes(content)
        (tmp_path / "b" / f"{number}{suffix.upper()}").write_bytes(content)
    (tmp_path / "a" / "wrong.png").write_bytes(content)
    source = from_folder(tmp_path)
    assert len(source) == 2 * len(SUFFIXES_OF[form]) + 1
    for item in range(len(source)):
        pixels = decode(source.read(item), source.references[item])
        seen = pixels[[16, 16, 48, 48], [24, 72, 24, 72]].astype(int)
        assert np.abs(seen - COLOURS).max() <= 12


def test_every_format_that_is_opened_has_an_ending():
    assert set(SUFFIXES_OF) == {*OPENERS, "HEIF"}
    assert len(set(SUFFIXES)) == len(SUFFIXES)


def test_heic_without_its_extra_is_one_line_that_names_it(monkeypatch):
    content = encoded("HEIF")
    monkeypatch.setitem(sys.modules, "pillow_heif.as_plugin", None)
    with pytest.raises(DataError, match=r"a\.heic: is HEIC.*pip install -e '\.\[heic\]'"):
        decode(content, "a.heic")


def test_reading_heic_changes_nothing_for_others():
    """Pillow's own table of formats stays as it is after a HEIC file is read."""
    pytest.importorskip("pillow_heif")
    decode(encoded("HEIF"), "a.heic")
    with pytest.raises(Image.UnidentifiedImageError):
        Image.open(io.BytesIO(encoded("HEIF")))


@pytest.mark.parametrize("form", ["PNG", "WEBP", "AVIF", "JPEG2000", "HEIF", "TIFF"])
def test_the_error_about_a_large_picture_names_the_value_that_allows_it(form):
    """This also holds for formats that take more memory, whose pixels count as two."""
    data = encoded(form)
    with pytest.raises(DataError, match=r"^a: is refused: 96 x 64 pixels") as error:
        decode(data, "a", reading=Reading(max_pixels=1000))
    (value,) = re.findall(r"--data\.max-pixels (\d+) allows them", str(error.value))
    assert decode(data, "a", reading=Reading(max_pixels=int(value))).shape == (64, 96, 3)
    with pytest.raises(DataError, match=f"more than {int(value) - 1:,} "):
        decode(data, "a", reading=Reading(max_pixels=int(value) - 1))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "deep TIFF"])
def test_the_size_in_a_header_is_that_of_the_upright_picture(form, orientation):
    image = quarters() if form != "deep TIFF" else Image.new("I;16", (96, 64), 65535)
    exif, file = Image.Exif(), io.BytesIO()
    exif[ORIENTATION] = orientation
    image.save(file, form.removeprefix("deep "), exif=exif)
    data = file.getvalue()
    assert look_at(data).size == decode(data).shape[1::-1]
