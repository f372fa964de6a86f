import base64
import io

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from jaxch5.plots.embed import contact_sheet, figure_image, picture_image


def pixels(image):
    """Returns the pixels of an image, as a browser would show them."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image.uri.split(",")[1]))))


@pytest.mark.parametrize(("height", "width"), [(8, 6), (64, 48)])
def test_a_small_picture_keeps_its_pixels(height, width):
    """A picture of at most 64 pixels keeps its pixels, even if a JPEG of it would be smaller."""
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = picture_image(picture / 255, "noise")
    assert image.uri.startswith("data:image/png;base64,")
    assert (image.width, image.height, image.alt) == (width, height, "noise")
    np.testing.assert_array_equal(pixels(image), picture)


def test_a_large_picture_becomes_smaller():
    blotches = np.random.default_rng(0).random((5, 7, 3)).astype(np.float32)
    image = picture_image(cv2.resize(blotches, (750, 500), interpolation=cv2.INTER_CUBIC), "")
    assert (image.width, image.height) == (384, 256)
    shown = cv2.resize(blotches, (384, 256), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    assert pixels(image).shape == shown.shape
    assert np.abs(pixels(image) - 255 * shown).mean() < 4


@pytest.mark.parametrize(("value", "shown"), [(-1.0, 0), (2.0, 255), (np.nan, 0)])
def test_values_out_of_range_are_cut(value, shown):
    assert (pixels(picture_image(np.full((4, 4, 3), value), "")) == shown).all()


def test_a_figure_takes_the_smaller_form():
    lines, photograph = Figure(figsize=(4, 3)), Figure(figsize=(4, 3))
    lines.subplots().plot([0, 1])
    noise = np.random.default_rng(0).random((300, 400, 3))
    photograph.subplots().imshow(noise)
    assert figure_image(lines, "").uri.startswith("data:image/png")
    assert figure_image(photograph, "").uri.startswith("data:image/jpeg")


def test_pictures_on_a_sheet_are_whole_and_those_of_a_few_pixels_stay_sharp():
    rng = np.random.default_rng(0)
    digit = rng.integers(0, 256, (8, 8, 1), dtype=np.uint8).repeat(3, 2)
    sheet = contact_sheet([Image.fromarray(digit), Image.new("RGB", (300, 100), "red")])
    shown = Image.open(io.BytesIO(base64.b64decode(sheet.uri.partition(",")[2])))
    left, top, width, height = sheet.places[1]
    assert (width, height) == (64, 21)
    assert shown.size == (128, 64)
    whole = np.asarray(shown.crop((left, top, left + width, top + height)), int)
    # A sheet may be a JPEG, which changes colours by a few levels.
    assert np.abs(whole - (255, 0, 0)).max() < 32
    left, top, width, height = sheet.places[0]
    assert (width, height) == (64, 64)
    enlarged = np.asarray(shown.crop((left, top, left + width, top + height)), int)
    assert np.abs(enlarged - digit.repeat(8, 0).repeat(8, 1)).max() < 32
