import io

import numpy as np
import pytest
from PIL import Image

from jaxch5.augmentation.policy import aug_transforms
from jaxch5.plots.augmentations import operations, plot_augmentations, plot_presizing


@pytest.fixture(scope="module")
def picture():
    noise = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((120, 80), Image.BICUBIC))


def titles(figure, side="center"):
    return [axes.get_title(loc=side) for axes in figure.axes if axes.get_title(loc=side)]


def drawn(figure):
    return [axes.images[0].get_array() for axes in figure.axes if axes.images]


def test_every_operation_has_its_row_and_shows_something(picture):
    policy = aug_transforms(min_scale=0.75)
    figure = plot_augmentations(picture, policy, size=32, draws=3)
    assert titles(figure, "left") == ["centre crop", *operations(policy)]
    pictures = drawn(figure)
    assert len(pictures) == 1 + 3 * len(operations(policy))
    centre, *others = (np.asarray(one).tobytes() for one in pictures)
    for number, name in enumerate(operations(policy)):
        assert set(others[3 * number : 3 * number + 3]) - {centre}, name


def test_a_picture_may_be_a_file(picture, tmp_path):
    file = tmp_path / "picture.png"
    Image.fromarray(picture).save(file)
    ours, theirs = (plot_augmentations(one, size=16, draws=1) for one in (picture, file))
    for one, other in zip(drawn(ours), drawn(theirs), strict=True):
        np.testing.assert_array_equal(one, other)


def test_operations_that_the_policy_lacks_have_no_row():
    nothing = aug_transforms(do_flip=False, max_rotate=0, max_zoom=1, max_lighting=0, max_warp=0)
    assert list(operations(nothing)) == ["position", "all together"]


def test_the_seed_decides_the_draws(picture):
    policy = aug_transforms(do_flip=False, max_rotate=0, max_zoom=1, max_lighting=0, max_warp=0)

    def first_row(seed):
        figure = plot_augmentations(picture, policy, size=16, seed=seed, draws=2)
        return np.asarray(drawn(figure)[1])

    np.testing.assert_array_equal(first_row(0), first_row(0))
    assert (first_row(0) != first_row(1)).any()


def test_one_interpolation_keeps_more_detail_than_one_by_one(picture):
    figure = plot_presizing(picture, size=40)
    assert titles(figure) == ["presized, then one interpolation", "resized, then one by one"]
    once, one_by_one = (np.asarray(one) for one in drawn(figure))
    middle = np.s_[10:30, 10:30]
    assert np.diff(once[middle], axis=1).std() > np.diff(one_by_one[middle], axis=1).std()


def test_figures_can_be_saved(picture):
    file = io.BytesIO()
    plot_presizing(picture, size=24).savefig(file, format="png")
    assert file.getvalue().startswith(b"\x89PNG")
