import numpy as np
import pytest
from PIL import Image

from jaxch5.augmentation.center import center
from jaxch5.batch import without_labels
from jaxch5.data.image import presize
from jaxch5.framing import Framing
from jaxch5.view import INTERPOLATIONS, View


def test_center_is_the_middle_of_the_kept_region(photographs, on_canvas):
    """The centre crop spans the whole short side.

    If output pixels coincide with the picture's pixels, their values are equal bit for bit.
    """
    pictures = [picture[: 64 + 2 * k, :64] for k, picture in enumerate(photographs)]
    pictures += [picture.transpose(1, 0, 2) for picture in pictures]
    batch = on_canvas(pictures, 64, 96)
    for picture, middle in zip(pictures, np.asarray(center(batch, 64)), strict=True):
        top, left = (picture.shape[0] - 64) // 2, (picture.shape[1] - 64) // 2
        cut = picture[top : top + 64, left : left + 64]
        np.testing.assert_array_equal(middle, cut.astype(np.float32) / np.float32(255))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_a_share_of_the_short_side_is_seen(photographs, on_canvas, interpolation):
    """With `crop_pct = 0.5`, half of the short side is seen, with either filter.

    The output is chosen so that its pixels coincide with the picture's.
    """
    pictures = [picture[: 64 + 2 * k, :64] for k, picture in enumerate(photographs)]
    batch = on_canvas(pictures + [picture.transpose(1, 0, 2) for picture in pictures], 64, 96)
    seen = center(batch, 32, view=View(0.5, interpolation))
    np.testing.assert_allclose(seen, np.asarray(center(batch, 64))[:, 16:48, 16:48], atol=1e-6)


@pytest.mark.parametrize("size", [20, 32, 45, 80])
def test_bicubic_is_pillows(photographs, on_canvas, size):
    """Bicubic shrinking and enlarging equal Pillow's.

    Pillow is given floats, because it rounds bytes between its two passes.
    """
    batch = on_canvas(photographs, 64, 96)
    seen = np.asarray(center(batch, size, view=View(0.75, "bicubic")))
    for picture, ours in zip(photographs, seen, strict=True):
        channels = np.moveaxis(picture[:96, :96].astype(np.float32), -1, 0)
        left, top = (channels.shape[2] - 48) / 2, (channels.shape[1] - 48) / 2
        box = (left, top, left + 48, top + 48)
        theirs = [
            Image.fromarray(channel).resize((size, size), Image.Resampling.BICUBIC, box)
            for channel in channels
        ]
        np.testing.assert_allclose(ours * 255, np.clip(np.stack(theirs, -1), 0, 255), atol=1e-2)


@pytest.mark.parametrize("method", ["crop", "squish", "pad"])
@pytest.mark.parametrize("pad_mode", ["reflection", "border", "zeros", "#ff8000"])
def test_bicubic_is_about_what_bilinear_is(photographs, method, pad_mode):
    """Both filters see the same part of a picture, whatever the framing method and pad mode.

    The output is not square.
    """
    pictures = [picture[: 64 + 9 * k, :64] for k, picture in enumerate(photographs)]
    pictures += [picture.transpose(1, 0, 2) for picture in pictures]
    canvases, frames = zip(*(presize(p, 64, method=method) for p in pictures), strict=True)
    batch = without_labels(np.stack(canvases), np.stack(frames), Framing(method, pad_mode))
    bilinear, bicubic = (
        np.asarray(center(batch, (48, 40), view=View(1.0, name))) for name in INTERPOLATIONS
    )
    assert np.sqrt(np.mean((bicubic - bilinear) ** 2)) < 0.05
    assert np.abs(bicubic - bilinear).max() > 1e-3


def test_bicubic_never_sees_beyond_a_picture(on_canvas):
    """Grey pictures stay grey, although the canvas beyond them is magenta."""
    pictures = [np.full((64, 80 - 8 * k, 3), 90, np.uint8) for k in range(3)]
    pictures += [picture.transpose(1, 0, 2) for picture in pictures]
    seen = center(on_canvas(pictures, 64, 96), 24, view=View(1.0, "bicubic"))
    np.testing.assert_allclose(np.asarray(seen) * 255, 90, atol=1e-3)
