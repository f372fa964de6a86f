"""A digest tells a file from others of its size, whatever it is called and wherever it is."""

import numpy as np
import pytest
from PIL import Image

from jaxch5.data.digests import CHUNK, WHOLE, digest_of, digests_of
from jaxch5.data.sources.folder import from_folder


def of(folder, content):
    (file := folder / "file").write_bytes(content)
    return digest_of(file)


@pytest.mark.parametrize("size", [1, 1000, WHOLE])
def test_any_byte_of_a_file_of_up_to_1_mb_matters(size, tmp_path):
    content, digests = bytes(size), set()
    for place in {0, size // 3, size // 2, size - 1}:
        digests.add(of(tmp_path, content[:place] + b"x" + content[place + 1 :]))
    assert {found for found, _ in digests} == {size}
    assert len(digests) == len({0, size // 3, size // 2, size - 1})
    assert of(tmp_path, content) == of(tmp_path, content)
    assert of(tmp_path, content) not in digests


def test_the_size_and_both_ends_of_a_large_file_matter(tmp_path):
    content = bytes(WHOLE + 1)
    changed = [b"x" + content[1:], content[:-1] + b"x", content + b"\0", content[:-2]]
    found = {of(tmp_path, one) for one in (content, *changed)}
    assert len({digest for _, digest in found}) == 5


@pytest.mark.parametrize("suffix", ["bmp", "ppm", "tif", "png", "jpg"])
def test_large_pictures_that_differ_in_a_detail_differ(suffix, tmp_path):
    """A detail is noticed wherever it is in a picture, even if both ends of the files agree."""
    ground = np.full((480, 640, 3), 255, np.uint8)
    if suffix in ("png", "jpg"):
        # A plain background would be compressed to a small file, all of which is read.
        ground[:] = np.random.default_rng(0).integers(0, 256, ground.shape)
    digests, places = set(), range(20, 400, 20)
    for place in places:
        pixels = ground.copy()
        pixels[place : place + 60, 300:340] = 0
        Image.fromarray(pixels).save(file := tmp_path / f"file.{suffix}")
        digests.add(digest_of(file)[1])
    assert file.stat().st_size > 60_000
    assert len(digests) == len(places)
    assert -1 not in digests


def test_a_very_large_file_that_may_be_uncompressed_gets_none(tmp_path):
    """Reading all of such a file takes long, and equal parts of two files prove nothing."""
    for beginning in (b"BM", b"P6 ", b"II*\0"):
        content = beginning.ljust(WHOLE, b"\0")
        assert of(tmp_path, content)[1] >= 0
        assert of(tmp_path, content + b"\0") == (WHOLE + 1, -1)
    assert of(tmp_path, b"\xff\xd8\xff".ljust(WHOLE + 1, b"\0"))[1] >= 0


def test_what_cannot_be_read_has_no_digest(tmp_path):
    assert digest_of(tmp_path / "none") == digest_of(tmp_path) == (-1, -1)
    assert of(tmp_path, b"")[0] == 0


def test_each_item_gets_the_digest_of_its_own_file(tmp_path):
    (tmp_path / "a").mkdir()
    for number in range(CHUNK + 3):
        (tmp_path / "a" / f"{number:04d}.jpg").write_bytes(bytes(number))
    source = from_folder(tmp_path)
    sizes, contents = digests_of(source, np.arange(len(source))[::-1])
    assert sizes.tolist() == [*range(CHUNK + 3)][::-1]
    assert contents[0] == digest_of(source.file(CHUNK + 2))[1]
    assert len(set(contents.tolist())) == CHUNK + 3
