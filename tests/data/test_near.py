"""Tests that near-duplicates are found after any kind of change, and other pictures are not."""

import cv2
import numpy as np
import pytest

from jaxch5.data import near
from jaxch5.data.near import find_near, thumbnail
from jaxch5.data.source import digits


def encoded(pixels, quality=50):
    _, file = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(file, cv2.IMREAD_COLOR)


def resized(pixels, factor):
    filter = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=filter)


def bordered(pixels, rows, columns, level):
    return cv2.copyMakeBorder(
        pixels, rows, rows, columns, columns, cv2.BORDER_CONSTANT, value=(level,) * 3
    )


def cropped(pixels, top, left, kept=0.9):
    height, width = (round(kept * side) for side in pixels.shape[:2])
    top, left = (
        round(share * side) for share, side in zip((top, left), pixels.shape, strict=False)
    )
    return pixels[top : top + height, left : left + width]


CHANGES = {
    "encoded again": encoded,
    "shrunk": lambda pixels: encoded(resized(pixels, 0.4), 80),
    "enlarged": lambda pixels: encoded(resized(pixels, 1.7), 80),
    "in another shape": lambda pixels: cv2.resize(pixels, (150, 150)),
    "black border": lambda pixels: encoded(bordered(pixels, 9, 9, 0), 80),
    "white border": lambda pixels: encoded(bordered(pixels, 6, 14, 255), 80),
    "letterbox": lambda pixels: encoded(bordered(pixels, 30, 0, 0), 80),
    "cropped at a corner": lambda pixels: cropped(pixels, 0, 0),
    "cropped at another corner": lambda pixels: cropped(pixels, 0.1, 0.1),
    "cropped all around": lambda pixels: encoded(cropped(pixels, 0.05, 0.05), 80),
    "cropped, with a border": lambda pixels: bordered(cropped(pixels, 0.02, 0.07), 8, 8, 128),
}


def textured(seed, count, shape=(120, 160)):
    """Returns pictures with details of all sizes.

    As in photographs, only the large details have colours.
    """
    draws = np.random.default_rng(seed)

    def layer(cells, channels):
        values = draws.normal(0, 64 / cells**0.5, (cells, cells, channels))
        return cv2.resize(values, shape[::-1]).reshape(*shape, channels)

    layers = ((3, 3), (6, 3), (12, 1), (24, 1))
    shades = [128 + sum(layer(*kind) for kind in layers) for _ in range(count)]
    return [np.clip(one, 0, 255).astype(np.uint8) for one in shades]


def groups(pictures):
    return find_near([thumbnail(one) for one in pictures])


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_done_to_pictures_does_not_hide_them(change):
    pictures = textured(0, 12)
    changed = [CHANGES[change](one) for one in pictures]
    assert groups([*pictures, *changed]) == [[item, item + 12] for item in range(12)]


def test_different_pictures_are_no_near_duplicates():
    assert groups(textured(1, 300)) == []


def test_a_grey_picture_is_compared_as_any():
    grey = [np.repeat(one[..., :1], 3, axis=2) for one in textured(2, 6)]
    assert groups([*grey, encoded(grey[4])]) == [[4, 6]]


def test_other_colours_make_another_picture():
    picture = textured(3, 1)[0]
    assert groups([picture, picture[..., ::-1]]) == []


@pytest.mark.parametrize("turned", [np.fliplr, np.flipud, np.rot90])
def test_mirrored_and_turned_pictures_are_others(turned):
    picture = textured(4, 1)[0]
    assert groups([picture, np.ascontiguousarray(turned(picture))]) == []


def test_plain_and_small_pictures_are_not_compared():
    plain = [np.full((50, 60, 3), level, np.uint8) for level in (0, 128, 255)]
    slope = np.repeat(np.linspace(0, 255, 60).astype(np.uint8)[None], 50, 0)[..., None].repeat(3, 2)
    dot = plain[0].copy()
    dot[20:23, 30:33] = 255
    noise = np.random.default_rng(0).integers(120, 123, (50, 60, 3), np.uint8)
    small = textured(5, 1, (31, 400))[0]
    for picture in (*plain, slope, dot, noise, small, small[:1, :1]):
        assert thumbnail(picture) is None
    assert groups([*plain, *plain]) == []
    assert thumbnail(textured(5, 1, (32, 400))[0]).nbytes == 3072


@pytest.mark.parametrize("side", [32, 64])
def test_drawings_of_one_shape_are_no_flood(side):
    """Among 400 digits, at most six are found, because few of them are drawn almost alike."""
    source = digits()
    pictures = [cv2.resize(source.read(item), (side, side)) for item in range(400)]
    assert sum(map(len, groups(pictures))) <= 6


def test_drawings_of_a_few_lines_are_told_apart():
    """Drawings of three lines are not near-duplicates.

    Drawings of a single line would look alike once the blank paper around the line is cropped.
    """
    draws = np.random.default_rng(0)
    pictures = []
    for _ in range(200):
        canvas = np.full((128, 128, 3), 255, np.uint8)
        for begin, end in draws.integers(5, 123, (3, 2, 2)).tolist():
            cv2.line(canvas, begin, end, (0, 0, 0), 2)
        pictures.append(canvas)
    assert groups(pictures) == []


def test_no_chain_puts_different_pictures_together():
    """Windows that move over a large picture are grouped only if they are close to each other."""
    large = textured(6, 1, (120, 640))[0]
    windows = [np.ascontiguousarray(large[:, start : start + 160]) for start in range(0, 480, 10)]
    found = groups(windows)
    assert len({item for group in found for item in group}) > 40
    for group in found:
        assert max(group) - min(group) <= 2 * (1 - near.OVERLAP) * 16


def test_each_pair_is_in_a_group():
    partners = {0: {1, 2}, 1: {0}, 2: {0, 3}, 3: {2}, 4: {5}, 5: {4}, 6: set()}
    assert near._groups(partners) == [[0, 1, 2], [2, 3], [4, 5]]


def test_one_picture_and_none():
    assert groups([]) == groups(textured(7, 1)) == find_near([None, None]) == []


def test_the_order_of_the_pictures_is_of_no_account():
    pictures = textured(8, 20)
    pictures = [*pictures, *map(encoded, pictures[:5])]
    order = np.random.default_rng(0).permutation(len(pictures))
    found = groups([pictures[item] for item in order])
    assert sorted(sorted(order[group].tolist()) for group in found) == groups(pictures)


def test_few_are_compared_in_detail(monkeypatch):
    """The number of detailed comparisons, which take most of the time, grows at most linearly."""
    compared = []
    compare = near._is_near
    monkeypatch.setattr(near, "_is_near", lambda *pair: compared.append(pair) or compare(*pair))
    base = textured(9, 1)[0]
    alike = [base // 2 + one // 8 for one in textured(10, 100)]
    groups(alike)
    assert 0 < len(compared) <= (near.FAILURES + 1) * len(alike)
    compared.clear()
    same = [encoded(base, quality) for quality in range(30, 100)]
    assert groups(same) == [list(range(70))]
    assert len(compared) <= 2 * len(same)


def test_photographs_are_found_and_told_apart(flowers):
    files = sorted(flowers.glob("train/*/*.jpg"))[::5]
    pictures = [cv2.imread(str(file)) for file in files]
    thumbnails = [thumbnail(one) for one in pictures]
    assert find_near(thumbnails) == []
    for name, change in CHANGES.items():
        changed = [thumbnail(change(one)) for one in pictures[::2]]
        pairs = [[2 * item, len(files) + item] for item in range(len(changed))]
        found = find_near([*thumbnails, *changed])
        assert not [group for group in found if group not in pairs], name
        assert len(found) >= 0.96 * len(pairs), name
