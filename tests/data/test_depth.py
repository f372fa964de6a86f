"""Tests that pictures of more than 8 bits are read with the right white, black and greys."""

import io
import struct
import zlib
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxch5.config.ranges import parse_range
from jaxch5.data.decode import Reading, decode
from jaxch5.data.depth import Deep, deep_of
from jaxch5.data.scale import guess_range, pixels_of
from jaxch5.data.source import with_range
from jaxch5.data.sources.folder import from_folder
from jaxch5.errors import DataError

FIELDS = {"H": 3, "I": 4}
RAMP = np.linspace(0, 1, 24).reshape(4, 6)
SHADES = RAMP * 255


def tiff(values: np.ndarray, photometric: int, order: str = "<", planar: int = 1, tags=()) -> bytes:
    """Builds a TIFF that Pillow cannot write, with one strip, or with a strip for each colour."""
    stored = values.transpose(2, 0, 1) if planar == 2 else values
    rows = stored.astype(values.dtype.newbyteorder(order)).tobytes()
    height, width, samples = values.shape
    strips = samples if planar == 2 else 1
    size = len(rows) // strips
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    entries = {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", [8 * values.dtype.itemsize] * samples),
        259: ("H", [1]),
        262: ("H", [photometric]),
        273: ("I", [8 + size * strip for strip in range(strips)]),
        277: ("H", [samples]),
        278: ("I", [height]),
        279: ("I", [size] * strips),
        284: ("H", [planar]),
        339: ("H", [kind] * samples),
        **dict(tags),
    }
    data = bytearray((b"II*\0" if order == "<" else b"MM\0*") + bytes(4) + rows)
    data += bytes(len(data) % 2)
    table = b""
    for tag, (form, numbers) in sorted(entries.items()):
        body = struct.pack(f"{order}{len(numbers)}{form}", *numbers)
        field = body.ljust(4, b"\0")
        if len(body) > 4:
            field = struct.pack(order + "I", len(data))
            data += body
        table += struct.pack(order + "HHI", tag, FIELDS[form], len(numbers)) + field
    struct.pack_into(order + "I", data, 4, len(data))
    return bytes(data) + struct.pack(order + "H", len(entries)) + table + bytes(4)


def png(values: np.ndarray, chunks: bytes = b"") -> bytes:
    """Builds a PNG with 16 bits per channel; `chunks` are placed before the pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + checksum

    height, width, samples = values.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[samples]
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunks
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def stored(dtype: str, white: float, samples: int = 1) -> np.ndarray:
    """Returns the ramp as numbers from 0 to `white`."""
    values = RAMP[..., None] * np.ones(samples) * white
    return (np.round(values) if np.dtype(dtype).kind in "ui" else values).astype(dtype)


FULL = {"u1": 255, "u2": 65535, "i2": 32767, "f4": 1, "f8": 1}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("dtype", "photometric"), list(product(FULL, [0, 1, 2])))
@pytest.mark.parametrize("planar", [1, 2])
def test_white_is_white_in_every_tiff(order, dtype, photometric, planar):
    """White is white in either byte order, and whether 0 or the maximum stands for white."""
    values = stored(dtype, FULL[dtype], 3 if photometric == 2 else 1)
    pixels = decode(tiff(values, photometric, order, planar))
    wanted = 255 - SHADES if photometric == 0 else SHADES
    assert np.abs(pixels - wanted[..., None]).max() <= 1


@pytest.mark.parametrize("samples", [1, 2, 3, 4])
def test_white_is_white_in_every_deep_png(samples):
    values = stored("u2", 65535, samples)
    if samples in (2, 4):
        values[..., -1] = 65535
    assert np.abs(decode(png(values)) - SHADES[..., None]).max() <= 1


def test_colours_and_their_order():
    values = np.zeros((2, 3, 3), np.uint16)
    values[:, 0] = (65535, 0, 0)
    values[:, 1] = (0, 32768, 0)
    wanted = [[255, 0, 0], [0, 128, 0], [0, 0, 0]]
    for data in (png(values), tiff(values, 2), tiff(values, 2, ">", planar=2)):
        assert decode(data)[1].tolist() == wanted


def test_transparent_lies_on_white():
    values = np.zeros((2, 2, 4), np.uint16)
    values[0, 0, 3] = 65535
    for data in (png(values), tiff(values, 2, tags={338: ("H", [2])})):
        assert decode(data)[..., 0].tolist() == [[0, 255], [255, 255]]


@pytest.mark.parametrize("samples", [2, 4])
@pytest.mark.parametrize("opaque", [4095, 65535])
def test_alpha_has_the_bits_of_the_colours_or_all(samples, opaque):
    values = np.full((4, 5, samples), 2048, np.uint16)
    values[..., -1] = opaque
    assert abs(int(pixels_of(Deep(values, None), parse_range("4095"))[0, 0, 0]) - 128) <= 1


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("form", ["TIFF", "PNG"])
@pytest.mark.parametrize("samples", [1, 3])
def test_the_bits_that_are_used_are_guessed_for_the_set(bits, form, samples):
    """A single picture that reaches white, among dark ones, shows how many bits the set uses."""
    white = 2**bits - 1
    files = [stored("u2", white / 20, samples)] * 9 + [stored("u2", white, samples)]
    contents = [
        png(file) if form == "PNG" else tiff(file, 2 if samples == 3 else 1) for file in files
    ]
    text, words = guess_range(len(files), contents.__getitem__)
    assert text == f"auto integers 0,{white}"
    assert "in 10 of the pictures" in words
    assert "--data.range" in words
    assert np.abs(decode(contents[9], reading=Reading(text)) - SHADES[..., None]).max() <= 1
    assert np.abs(decode(contents[0], reading=Reading(text)) - SHADES[..., None] / 20).max() <= 1


@pytest.mark.parametrize(
    ("dtype", "low", "high", "wanted"),
    [
        ("f4", 0, 1, "floats 0,1"),
        ("f4", 0, 254.7, "floats 0,255"),
        ("f4", 0, 60000, "floats 0,65535"),
        ("f8", -0.9, 1, "floats -1,1"),
        ("f8", -1.004, 1.006, "floats -1,1"),
        ("i2", 0, 32767, "integers 0,32767"),
        ("i2", -1024, 3071, "integers -1024,4095"),
        ("i4", 0, 3900, "integers 0,4095"),
        ("u4", 0, 2**32 - 1, "integers 0,4294967295"),
    ],
)
def test_other_numbers_are_guessed_too(dtype, low, high, wanted):
    values = (low + (high - low) * RAMP[..., None]).astype(dtype)
    data = tiff(values, 1)
    text, _ = guess_range(3, lambda item: data)
    assert text == f"auto {wanted}"
    black, white = map(float, wanted.split()[1].split(","))
    shades = (values - black) / (white - black) * 255
    assert np.abs(decode(data, reading=Reading(text)) - shades).max() <= 1


@pytest.mark.parametrize("low", [-1e-7, -0.009])
def test_floats_slightly_below_black_do_not_move_it(low):
    """One negative value, as a filter leaves it, does not halve the contrast of the whole set."""
    values = RAMP[..., None].astype("f4")
    values[0, 0] = low
    files = [tiff(RAMP[..., None].astype("f4"), 1), tiff(values, 1)]
    assert guess_range(2, files.__getitem__)[0] == "auto floats 0,1"


def test_both_kinds_of_numbers_are_guessed_and_both_are_said():
    contents = [tiff(stored("u2", 4095), 1), tiff(stored("f4", 255), 1)]
    text, words = guess_range(2, contents.__getitem__)
    assert text == "auto integers 0,4095 floats 0,255"
    assert "4,095" in words
    assert "255" in words
    for data in contents:
        assert np.abs(decode(data, reading=Reading(text)) - SHADES[..., None]).max() <= 1


@pytest.mark.parametrize("largest", [4095, 1023])
def test_a_file_that_says_its_bits_is_believed(largest):
    """A stated largest value is taken as white if it is a usual value for white, such as 4095.

    A value such as 3900 is only the largest that occurs in the picture, and is ignored.
    """
    data = tiff(stored("u2", largest), 1, tags={281: ("H", [largest])})
    assert np.abs(decode(data) - SHADES[..., None]).max() <= 1
    assert guess_range(1, lambda item: data) == ("auto", "")
    assert decode(tiff(stored("u2", 3900), 1, tags={281: ("H", [3900])})).max() == 15


def test_what_is_set_wins_over_what_the_file_says():
    data = tiff(stored("u2", 4095), 1, tags={281: ("H", [4095])})
    assert decode(data, reading=Reading("8190")).max() == 128
    assert decode(data, reading=Reading("auto integers 0,8190")).max() == 255


def test_packed_bits_are_what_they_are():
    """Numbers of 12 bits are unpacked; a TIFF stores two of them in three bytes."""
    numbers = [0, 2048, 4095, 1024]
    rows = int("".join(f"{number:012b}" for number in numbers), 2).to_bytes(6, "big")
    entry = {258: ("H", [12]), 256: ("I", [4]), 257: ("I", [1]), 278: ("I", [1])}
    for order in "<>":
        whole = np.frombuffer(rows, np.uint8).reshape(1, 6, 1)
        data = tiff(whole, 1, order, tags=entry)
        assert decode(data)[0, :, 0].tolist() == [0, 128, 255, 64]


@settings(max_examples=100, deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(0, 1))
def test_a_range_is_obeyed_and_what_lies_outside_is_cut(low, high, share):
    if abs(high - low) < 1e-3:
        return
    value = low + share * (high - low)
    data = tiff(np.array([value, 3 * low - 2 * high, 3 * high - 2 * low]).reshape(1, 3, 1), 1)
    shades = decode(data, reading=Reading(f"{low!r},{high!r}"))[0, :, 0]
    assert abs(shades[0] - 255 * share) <= 1
    assert shades[1:].tolist() == [0, 255]


def test_numbers_that_are_none_are_black():
    data = tiff(np.array([np.nan, np.inf, -np.inf, 1.0]).reshape(1, 4, 1), 1)
    assert decode(data)[0, :, 0].tolist() == [0, 255, 0, 255]


def test_a_guess_looks_at_each_picture_that_is_decoded(tmp_path):
    """The guess ignores pictures that exceed `max_pixels`, and follows a raised limit."""
    for name in ("red", "green"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(png(stored("u2", 4095, 1)))
    source = from_folder(tmp_path)
    for max_pixels, guessed in ((10, "auto"), (10**9, "auto integers 0,4095")):
        read = with_range(replace(source, reading=Reading(max_pixels=max_pixels)))
        assert read.reading == Reading(guessed, max_pixels)


def test_pictures_of_8_bits_cost_nothing():
    """Pictures of 8 bits are not read in full for a guess, and no range changes them."""
    file = io.BytesIO()
    Image.fromarray(np.round(SHADES).astype(np.uint8)).save(file, "PNG")
    assert deep_of(file.getvalue()) is None
    read = []
    guess_range(5, read.append, lambda item: file.getvalue()[:64])
    assert not read
    assert np.abs(decode(file.getvalue(), reading=Reading("4095")) - SHADES[..., None]).max() <= 1


def test_uncompressed_ycbcr_is_colours():
    """Uncompressed YCbCr is converted to RGB; Pillow would mistake its values for RGB."""
    values = np.full((2, 2, 3), (255, 128, 128), np.uint8)
    assert decode(tiff(values, 6, tags={530: ("H", [1, 1])})).min() >= 254


def test_lab_is_colours():
    values = np.zeros((1, 3, 3), np.uint8)
    values[0, :, 0] = 0, 136, 255
    shades = decode(tiff(values, 8))[0]
    assert shades[0].max() <= 1
    assert np.abs(shades[1].astype(int) - 127).max() <= 3
    assert shades[2].min() >= 254


@pytest.mark.parametrize("bits", [16, 32])
def test_what_would_take_too_much_memory_is_refused(bits):
    data = tiff(
        np.zeros((1, 1, 3), f"u{bits // 8}"), 2, tags={256: ("I", [9000]), 257: ("I", [9000])}
    )
    with pytest.raises(DataError, match=r"is refused: 9000 x 9000 .*--data.max-pixels"):
        decode(data)


def test_pixels_of_more_than_8_bytes_count_as_several():
    data = tiff(np.zeros((4, 6, 3), "f4"), 2)
    with pytest.raises(DataError, match=r"6 x 4 pixels, each .* as 1\.5, .* 36 allows"):
        decode(data, reading=Reading(max_pixels=35))
    assert decode(data, reading=Reading(max_pixels=36)).shape == (4, 6, 3)
