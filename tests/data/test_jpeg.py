"""Tests that harmless JPEG files are read, shrunk if they are large, whatever follows their end."""

import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxch5.data.decode import Reading, decode
from jaxch5.data.formats import orientation_of, read_header
from jaxch5.data.jpeg import START_OF_SCAN, count_scans, read_plain
from jaxch5.data.profiles import adobe_rgb, profile_in
from jaxch5.errors import DataError


def picture(width: int = 96, height: int = 64) -> Image.Image:
    rows, columns = np.indices((height, width))
    pixels = np.stack([255 * rows / height, 255 * columns / width, 0 * rows], -1)
    return Image.fromarray(pixels.astype(np.uint8))


def encoded(image: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90, **options)
    return file.getvalue()


KINDS = {
    "baseline": {},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 2},
}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([START_OF_SCAN, b"\xff\xd8\xff", b"\xff\xd9", b"ftypmp42", b"\0"])),
    st.binary(max_size=100),
    st.integers(0, 300),
)
@pytest.mark.parametrize("kind", KINDS)
def test_bytes_after_the_end_are_no_scans(kind, pieces, rest, times):
    """Bytes after the end, such as a film, more pictures or a maker's notes, are ignored."""
    data = encoded(picture(), **KINDS[kind])
    behind = (b"".join(pieces) + rest) * times
    assert count_scans(data + behind) == count_scans(data)
    assert np.array_equal(decode(data + behind), decode(data))


@pytest.mark.parametrize("kind", KINDS)
def test_scans_are_counted_as_they_are(kind):
    data = encoded(picture(), **KINDS[kind])
    assert count_scans(data) == data.count(START_OF_SCAN)
    # A segment of the header, such as one with a thumbnail, is skipped; scans in it do not count.
    comment = b"\xff\xfe" + struct.pack(">H", 2 + 4 * 1000) + (START_OF_SCAN + b"\0\0") * 1000
    assert count_scans(data[:2] + comment + data[2:]) == count_scans(data)


def test_several_pictures_in_one_file_are_the_first():
    file = io.BytesIO()
    others = [Image.new("RGB", (96, 64), "white")] * 3
    picture().save(file, "MPO", save_all=True, append_images=others)
    assert np.abs(decode(file.getvalue()) - np.asarray(picture()).astype(int)).mean() < 6


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("times", [1, 2, 3, 7])
def test_a_large_jpeg_is_decoded_at_a_fraction(mode, times):
    """The largest fraction within the limit of pixels is used, and looks like the whole picture."""
    data = encoded(picture(400, 304).convert(mode))
    limit = 400 * 304 // times**2
    pixels = decode(data, reading=Reading(max_pixels=limit))
    part = 400 // pixels.shape[1]
    assert pixels.shape[0] * pixels.shape[1] <= limit
    assert part == next(part for part in (1, 2, 4, 8) if part >= times)
    whole = Image.fromarray(decode(data)).resize(pixels.shape[1::-1], Image.Resampling.BOX)
    assert np.abs(np.asarray(whole).astype(int) - pixels).mean() < 3


def test_a_panorama_of_108_megapixels_is_read():
    """A panorama as large as phones make them is read with the default settings."""
    data = encoded(Image.new("RGB", (16000, 6750), (200, 100, 50)))
    pixels = decode(data)
    assert pixels.shape == (3375, 8000, 3)
    assert np.abs(pixels[::500, ::500].astype(int) - (200, 100, 50)).max() <= 3
    assert decode(data, min_side=192).shape == (844, 2000, 3)


def test_what_is_too_large_names_the_setting():
    data = encoded(picture(400, 304))
    with pytest.raises(DataError, match=r"--data\.max-pixels"):
        decode(data, reading=Reading(max_pixels=1000))
    with pytest.raises(DataError, match=r"several scans.*--data\.max-pixels"):
        decode(encoded(picture(400, 304), progressive=True), reading=Reading(max_pixels=50_000))
    file = io.BytesIO()
    picture(400, 304).save(file, "PNG")
    with pytest.raises(DataError, match=r"--data\.max-pixels"):
        decode(file.getvalue(), reading=Reading(max_pixels=100_000))


TURNED = Image.Exif()
TURNED[274] = 6
# Options for Pillow's encoder, and whether `read_plain` reads the header that is written.
HEADERS = {
    "nothing": ({}, True),
    "a comment": ({"comment": b"a comment"}, True),
    "a profile": ({"icc_profile": adobe_rgb()}, True),
    "a profile in two parts": ({"icc_profile": adobe_rgb() + bytes(70_000)}, False),
    "EXIF": ({"exif": TURNED}, False),
    "XMP": ({"xmp": b'tiff:Orientation="6"'}, False),
    "restarts": ({"restart_marker_blocks": 2}, True),
    "several scans": ({"progressive": True}, False),
}


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("kind", HEADERS)
def test_a_plain_header_says_what_pillow_says(kind, mode):
    """If `read_plain` reads a header, Pillow finds the same size and profile, and no rotation.

    The decoded pixels do not depend on which of the two read the header.
    """
    options, plain = HEADERS[kind]
    data = encoded(picture().convert(mode), **options)
    header, read = read_header(data), read_plain(data)
    assert (read is not None) == (plain and mode != "CMYK")
    if read is not None:
        assert read == (header.size, profile_in(header.info))
        assert orientation_of(header) == 1
        assert np.array_equal(decode(data), decode(data[:2] + EMPTY_EXIF + data[2:]))


# With this empty segment, a header is left to Pillow, but has the same meaning.
EMPTY_EXIF = b"\xff\xe1\0\x16Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([*HEADERS]), st.data())
def test_a_damaged_header_is_left_to_pillow_or_says_the_same(kind, data):
    """If `read_plain` and Pillow both read a header with a changed byte, they agree about it."""
    content = bytearray(encoded(picture(16, 8), **HEADERS[kind][0]))
    place = data.draw(st.integers(2, content.index(START_OF_SCAN) + 3))
    content[place] = data.draw(st.integers(0, 255))
    read = read_plain(bytes(content))
    try:
        header = read_header(bytes(content))
    except Exception:
        return
    assert read is None or read == (header.size, profile_in(header.info))
