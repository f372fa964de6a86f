"""Verification finds every problem of a set, and reports none in a set without problems."""

import io

import numpy as np
import pytest
from PIL import Image

from jaxch5.data.formats import ends_as_it_begins
from jaxch5.data.source import Source, from_arrays
from jaxch5.data.sources.folder import from_folder
from jaxch5.data.verify import check_heads, find_problems, readable, unreadable
from jaxch5.errors import DataError


def pictures(shades, labels):
    images = [np.full((6, 8, 3), shade, np.uint8) for shade in shades]
    return from_arrays(images, np.array(labels), ["a", "b"])


def test_different_pictures_are_no_problem():
    source = pictures(range(40), [0, 1] * 20)
    assert find_problems(source, np.arange(30), np.arange(30, 40)).clean


def test_each_kind_is_found():
    source = pictures([1, 1, 2, 2, 3, 3, 4, 5, 5], [0, 0, 0, 1, 0, 0, 1, 0, 1])
    found = find_problems(source, np.array([0, 1, 2, 3, 4, 6, 7]), np.array([5, 8]))
    assert found.duplicates == [[0, 1]]
    assert found.conflicts == [[2, 3], [7, 8]]
    assert found.leaks == [[4, 5], [7, 8]]
    assert not found.unreadable
    assert not found.clean


def test_a_copy_in_neither_part_is_a_duplicate_and_no_leak():
    """A copy that is used neither for training nor for validation is a duplicate, not a leak.

    For example, a set may also contain pictures for a test.
    """
    source = pictures([1, 1, 2, 2, 3, 3], [0, 0, 1, 1, 0, 0])
    found = find_problems(source, np.array([0, 2]), np.array([3, 4]))
    assert found.leaks == [[2, 3]]
    assert found.duplicates == [[0, 1], [4, 5]]


def test_the_same_pixels_in_another_file_are_the_same_picture():
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 7, 3), np.uint8))
    files = []
    for form in ("PNG", "BMP"):
        file = io.BytesIO()
        pixels.save(file, form)
        files.append(file.getvalue())
    source = Source(
        ("a", "b"), np.array([0, 1], np.int32), ["one.png", "two.bmp"], files.__getitem__
    )
    assert find_problems(source).conflicts == [[0, 1]]


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n cut"])
def test_broken_files_are_named_with_the_reason(content):
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    contents = [file.getvalue(), content]
    labels = np.array([0, 1], np.int32)
    source = Source(("a", "b"), labels, ["good.png", "bad.png"], contents.__getitem__)
    assert list(find_problems(source).unreadable) == [1]
    assert list(unreadable(source)) == ["bad.png"]
    assert "bad.png" in unreadable(source)["bad.png"]


def test_what_cannot_be_read_is_left_out():
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    contents = [file.getvalue(), b"no picture", file.getvalue()]
    labels = np.array([0, 1, 1], np.int32)
    source = Source(("a", "b"), labels, ["1.png", "bad.png", "2.png"], contents.__getitem__)
    kept = readable(source)
    assert kept.references == ["1.png", "2.png"]
    assert kept.labels.tolist() == [0, 1]
    with pytest.raises(DataError, match="class b"):
        readable(Source(("a", "b"), labels[:2], ["1.png", "bad.png"], contents.__getitem__))


def test_pictures_that_show_nothing_are_named():
    """A picture counts as black, white or of one colour if its decoded pixels are nearly so.

    For example, 12-bit values that are read as 16-bit values are nearly black.
    """
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    shown = [
        noise,
        noise // 16,
        255 - noise // 16,
        np.full_like(noise, (90, 120, 30)) + noise // 86,
    ]
    source = from_arrays(shown, np.array([0, 1, 0, 1]), ["a", "b"])
    found = find_problems(source)
    assert found.blank == {1: "black", 2: "white", 3: "one colour"}
    assert found.clean


def test_copies_and_what_is_near_to_them_are_one_group():
    draws = np.random.default_rng(0).integers(0, 256, (2, 12, 12, 3), np.uint8)
    one, other = (np.asarray(Image.fromarray(picture).resize((90, 80))) for picture in draws)
    source = from_arrays([one, other, one, one[4:]], np.array([0, 1, 0, 1]), ["a", "b"])
    found = find_problems(source, np.arange(2), np.arange(2, 4))
    assert found.leaks == [[0, 2]]
    assert found.near.leaks == found.near.conflicts == [[0, 2, 3]]
    assert not found.near.duplicates
    assert find_problems(source, near=False).near == ([], [], [])


def test_what_begins_and_ends_like_no_picture_is_decoded_before_it_is_named(tmp_path):
    """A file that begins or ends unlike a picture is decoded, and reported only if that fails.

    Intact files of six formats pass, and bytes after a picture do not make its file bad.
    """
    for name in ("a", "b"):
        for number, form in enumerate(("jpeg", "png", "webp", "gif", "bmp", "tiff")):
            (tmp_path / name).mkdir(exist_ok=True)
            pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.{form}")
    first = tmp_path / "a" / "0.jpeg"
    whole = first.read_bytes()
    first.write_bytes(whole + bytes(4096))
    assert not ends_as_it_begins(first)
    check_heads(from_folder(tmp_path))
    first.write_bytes(b"")
    with pytest.raises(DataError, match=r"^a/0\.jpeg: is an empty file; fix .*--data\.on-bad skip"):
        check_heads(from_folder(tmp_path))
    for name in "ab":
        for file in (tmp_path / name).iterdir():
            file.write_bytes(whole[:200])
    with pytest.raises(DataError, match=r"^12 pictures cannot be read: a/0\.jpeg: .* and 7 more"):
        check_heads(from_folder(tmp_path))
