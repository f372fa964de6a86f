"""Tests that decoding gives what a person would see, and that frames locate points on canvases."""

import contextlib
import io
import json
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxch5.data.image import canvas_shape, decode, presize
from jaxch5.data.profiles import adobe_rgb
from jaxch5.errors import DataError

# The test picture is wider than high, and its quarters differ in colour, so that every rotation and
# mirroring can be seen.
RED, GREEN, BLUE, GREY = (200, 30, 30), (30, 180, 30), (30, 30, 190), (120, 120, 120)


def quarters(width: int = 96, height: int = 64) -> Image.Image:
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = RED
    pixels[: height // 2, width // 2 :] = GREEN
    pixels[height // 2 :, : width // 2] = BLUE
    pixels[height // 2 :, width // 2 :] = GREY
    return Image.fromarray(pixels)


def corners(pixels: np.ndarray) -> np.ndarray:
    """Returns the colour in the middle of each quarter, in reading order."""
    height, width, _ = pixels.shape
    rows, columns = [height // 4, 3 * height // 4], [width // 4, 3 * width // 4]
    return pixels[np.ix_(rows, columns)].reshape(4, 3).astype(int)


def encoded(image: Image.Image, form: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def with_orientation(image: Image.Image, orientation: int, form: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if form == "JPEG" else {}
    return encoded(image, form, exif=exif.tobytes(), **options)


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """Builds a PNG by hand, for kinds that Pillow cannot write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def deep_rgb() -> bytes:
    values = np.asarray(quarters()).astype(">u2") * 257
    return png(96, 64, 16, 2, b"".join(b"\0" + row.tobytes() for row in values))


def palette_with_transparency() -> bytes:
    image = quarters().quantize(4)
    clear = int(np.asarray(image)[0, 0])
    return encoded(image, "PNG", transparency=clear)


def with_alpha(alpha_of_red: int) -> Image.Image:
    pixels = np.asarray(quarters().convert("RGBA")).copy()
    pixels[:32, :48, 3] = alpha_of_red
    return Image.fromarray(pixels)


def grey(mode: str) -> Image.Image:
    return quarters().convert("L").convert(mode)


def animation(form: str) -> bytes:
    second = Image.new("RGB", (96, 64), "white")
    options = {"lossless": True} if form == "WEBP" else {}
    return encoded(quarters(), form, save_all=True, append_images=[second], **options)


COLOURS = np.array([RED, GREEN, BLUE, GREY])
SHADES = np.asarray(quarters().convert("L"))[[16, 16, 48, 48], [24, 72, 24, 72]].astype(int)
GREYS = np.repeat(SHADES[:, None], 3, axis=1)
WHITE_FIRST = np.array([(255, 255, 255), GREEN, BLUE, GREY])
HALF_FIRST = np.array([(227, 142, 142), GREEN, BLUE, GREY])
INK = np.where(GREYS > 127, 255, 0)

ZOO = {
    "baseline JPEG": (encoded(quarters(), "JPEG", quality=95), COLOURS),
    "progressive JPEG": (encoded(quarters(), "JPEG", quality=95, progressive=True), COLOURS),
    "JPEG without chroma subsampling": (
        encoded(quarters(), "JPEG", quality=95, subsampling=0),
        COLOURS,
    ),
    "grey JPEG": (encoded(grey("L"), "JPEG", quality=95), GREYS),
    "CMYK JPEG": (encoded(quarters().convert("CMYK"), "JPEG", quality=95), COLOURS),
    "JPEG with rubbish after its end": (
        encoded(quarters(), "JPEG", quality=95) + b"rubbish" * 100,
        COLOURS,
    ),
    "JPEG with rubbish between its segments": (
        encoded(quarters(), "JPEG", quality=95).replace(b"\xff\xc0", b"\0\0\xff\xc0", 1),
        COLOURS,
    ),
    "JPEG with broken EXIF": (
        encoded(quarters(), "JPEG", quality=95, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"),
        COLOURS,
    ),
    "RGB PNG": (encoded(quarters(), "PNG"), COLOURS),
    "16-bit RGB PNG": (deep_rgb(), COLOURS),
    "grey PNG": (encoded(grey("L"), "PNG"), GREYS),
    "16-bit grey PNG": (
        encoded(Image.fromarray(np.asarray(grey("L")).astype(np.uint16) * 257), "PNG"),
        GREYS,
    ),
    "two-coloured PNG": (encoded(Image.fromarray(np.asarray(grey("L")) > 127), "PNG"), INK),
    "palette PNG": (encoded(quarters().quantize(4), "PNG"), COLOURS),
    "palette PNG with a clear colour": (palette_with_transparency(), WHITE_FIRST),
    "RGB PNG with a clear colour": (encoded(quarters(), "PNG", transparency=RED), WHITE_FIRST),
    "RGBA PNG, clear": (encoded(with_alpha(0), "PNG"), WHITE_FIRST),
    "RGBA PNG, half clear": (encoded(with_alpha(128), "PNG"), HALF_FIRST),
    "grey PNG with alpha": (encoded(grey("LA"), "PNG"), GREYS),
    "PNG with orientation": (
        with_orientation(quarters().transpose(Image.Transpose.ROTATE_180), 3, "PNG"),
        COLOURS,
    ),
    "animated GIF": (animation("GIF"), COLOURS),
    "animated PNG": (animation("PNG"), COLOURS),
    "animated WebP": (animation("WEBP"), COLOURS),
    "lossy WebP": (encoded(quarters(), "WEBP", quality=95), COLOURS),
    "BMP": (encoded(quarters(), "BMP"), COLOURS),
    "AVIF": (encoded(quarters(), "AVIF", quality=95), COLOURS),
    "JPEG 2000": (encoded(quarters(), "JPEG2000"), COLOURS),
    "PPM": (encoded(quarters(), "PPM"), COLOURS),
    "progressive JPEG with a film behind it": (
        encoded(quarters(), "JPEG", quality=95, progressive=True) + b"ftyp\xff\xda" * 999,
        COLOURS,
    ),
    "16-bit RGB TIFF": (
        cv2.imencode(".tif", np.asarray(quarters())[..., ::-1].astype(np.uint16) * 257)[
            1
        ].tobytes(),
        COLOURS,
    ),
    "TIFF": (encoded(quarters(), "TIFF", compression="tiff_lzw"), COLOURS),
    "CMYK TIFF": (encoded(quarters().convert("CMYK"), "TIFF"), COLOURS),
    "32-bit float TIFF": (
        encoded(Image.fromarray(np.asarray(grey("L")).astype(np.float32) / 255), "TIFF"),
        GREYS,
    ),
}


@pytest.mark.parametrize("kind", ZOO)
def test_a_person_would_see_the_same(kind):
    """Each kind of file becomes RGB with the colours that were put in."""
    data, expected = ZOO[kind]
    pixels = decode(data, kind)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (64, 96, 3)
    assert np.abs(corners(pixels) - expected).max() <= 8


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("min_side", [None, 16])
def test_orientation_is_obeyed(orientation, min_side):
    """A picture stored in any of EXIF's eight orientations comes out upright."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = quarters().transpose(undo[orientation]) if orientation > 1 else quarters()
    pixels = decode(with_orientation(stored, orientation), "photo.jpg", min_side)
    assert pixels.shape[1] * 2 == pixels.shape[0] * 3
    assert np.abs(corners(pixels) - COLOURS).max() <= 8


def test_a_large_jpeg_is_decoded_at_a_fraction_of_its_size():
    """Neither side falls below `min_side`, and far fewer pixels are decoded than the file has."""
    pixels = decode(encoded(quarters(960, 640), "JPEG", quality=95), "large.jpg", min_side=150)
    assert 150 <= pixels.shape[0] <= 320
    assert np.abs(corners(pixels) - COLOURS).max() <= 8


JPEG, PNG = encoded(quarters(), "JPEG"), encoded(quarters(), "PNG")
BROKEN = {
    "empty": b"",
    "text named .jpg": b"<html>404 Not Found</html>\n" * 20,
    "zeros": bytes(4096),
    "only the first bytes of a JPEG": JPEG[:20],
    "JPEG cut in its header": JPEG[:300],
    "JPEG cut in its picture": JPEG[: len(JPEG) * 3 // 4],
    "PNG cut in its picture": PNG[:150],
    "GIF cut in its header": encoded(quarters(), "GIF")[:15],
    "PNG with a wrong checksum": PNG.replace(b"IHDR\0\0\0\x60", b"IHDR\0\0\0\x61", 1),
    "WebP cut in half": encoded(quarters(), "WEBP")[:100],
    "bomb": png(60000, 60000, 1, 0, b""),
    "bomb of an animation": png(60000, 2000, 8, 2, b""),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.filterwarnings("error")
def test_what_cannot_be_read_is_named(kind):
    """The error is one line that begins with the file's name, and no warning is issued."""
    with pytest.raises(DataError) as caught:
        decode(BROKEN[kind], "a/b.jpg", min_side=64)
    message = str(caught.value)
    assert message.startswith("a/b.jpg: ")
    assert "\n" not in message
    assert "remove it" in message


def jpeg_of_size(width: int, height: int) -> bytes:
    """Returns a small JPEG whose header claims another size."""
    place = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:place] + struct.pack(">HH", height, width) + JPEG[place + 4 :]


def jpeg_of_scans(count: int) -> bytes:
    """Returns a progressive JPEG whose last scan is repeated `count` times."""
    data = encoded(quarters(), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


def jpeg_of_components(count: int) -> bytes:
    """Returns a JPEG with three components and `count` scans that hold only the first component."""
    data = encoded(quarters(), "JPEG")
    begin = data.rindex(b"\xff\xda")
    # A scan's header: the component with its tables, then the range of all 64 coefficients.
    one = b"\xff\xda\x00\x08\x01" + data[begin + 5 : begin + 7] + b"\x00\x3f\x00"
    return data[:begin] + (one + data[begin + 14 : -2]) * count + data[-2:]


def webp_of_size(width: int, height: int) -> bytes:
    """Returns an animated WebP whose first chunk claims another size of the canvas."""
    data = bytearray(animation("WEBP"))
    place = data.index(b"VP8X") + 12
    data[place : place + 3] = (width - 1).to_bytes(3, "little")
    data[place + 3 : place + 6] = (height - 1).to_bytes(3, "little")
    return bytes(data)


def gif_of_size(width: int, height: int) -> bytes:
    data = encoded(quarters(), "GIF")
    return data[:6] + struct.pack("<HH", width, height) + data[10:]


def tiff_of_size(width: int, height: int) -> bytes:
    data = bytearray(encoded(quarters(), "TIFF"))
    for tag, value in ((256, width), (257, height)):
        place = data.index(struct.pack("<H", tag))
        data[place : place + 12] = struct.pack("<HHII", tag, 4, 1, value)
    return bytes(data)


def png_with(kind: bytes, body: bytes) -> bytes:
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return PNG[:33] + chunk + PNG[33:]


MANY_ZEROS = zlib.compress(bytes(100_000_000))
BOMBS = {
    "PNG": png(60000, 60000, 1, 0, b""),
    "PNG below Pillow's limit": png(9000, 9000, 8, 6, b""),
    "GIF": gif_of_size(65535, 65535),
    "TIFF": tiff_of_size(100_000, 100_000),
    "WebP": webp_of_size(16384, 16384),
    "WebP below Pillow's limit": webp_of_size(9000, 5000),
    "JPEG": jpeg_of_size(65000, 65000),
    "JPEG below Pillow's limit": jpeg_of_size(8000, 8000),
    "JPEG of a thousand scans": jpeg_of_scans(1000),
    "JPEG of a component a scan": jpeg_of_components(1000),
}
CHUNKS = {
    "iCCP": png_with(b"iCCP", b"name\0\0" + MANY_ZEROS),
    "zTXt": png_with(b"zTXt", b"name\0\0" + MANY_ZEROS),
    "iTXt": png_with(b"iTXt", b"name\0\1\0\0\0" + MANY_ZEROS),
}


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bombs_are_refused_before_they_take_memory(kind):
    """Small files that claim many pixels, or would take much work, are refused before decoding."""
    assert len(BOMBS[kind]) < 1_000_000
    with pytest.raises(DataError, match="is refused") as caught:
        decode(BOMBS[kind], "bomb")
    assert "\n" not in str(caught.value)


def test_scans_behind_a_whole_one_are_not_decoded():
    """If the first scan is complete, scans are not counted; decoding fails at the second scan."""
    data = encoded(quarters(), "JPEG")
    scan = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(DataError, match="cannot be decoded"):
        decode(data[:-2] + scan * 1000 + data[-2:])


@pytest.mark.parametrize("kind", CHUNKS)
def test_a_chunk_that_unpacks_to_much_is_not_unpacked(kind):
    """If a PNG's text or profile holds 100 MB of zeros, unpacking stops at Pillow's limit."""
    tracemalloc.start()
    with contextlib.suppress(DataError):
        decode(CHUNKS[kind], "bomb")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


def test_whole_pictures_are_no_bombs():
    """Blank pictures, with few bytes per pixel, are read; so is a picture with a long comment."""
    blank = Image.new("RGB", (3000, 2000), "white")
    for options in ({}, {"progressive": True}, {"optimize": True, "quality": 1}):
        assert decode(encoded(blank, "JPEG", **options), "blank").shape == (2000, 3000, 3)
    notes = np.random.default_rng(0).bytes(60_000)
    assert decode(encoded(quarters(), "JPEG", comment=notes)).shape == (64, 96, 3)


def test_an_animation_of_many_frames_is_one_picture():
    frames = [Image.new("L", (96, 64), shade) for shade in range(200)]
    for form in ("GIF", "WEBP", "PNG", "TIFF"):
        data = encoded(quarters(), form, save_all=True, append_images=frames)
        assert np.abs(corners(decode(data)) - COLOURS).max() <= 8


def test_only_formats_of_pictures_are_tried():
    """PostScript that is named as a JPEG is refused; Pillow would start Ghostscript to read it."""
    data = encoded(quarters(), "EPS")
    with pytest.raises(DataError, match="not a picture in a known format"):
        decode(data, "a.jpg")


@pytest.mark.parametrize("shape", [(1, 60000), (60000, 1), (1, 1), (2, 3000)])
def test_the_strangest_shapes_fill_a_canvas(shape):
    picture = Image.new("RGB", shape, RED)
    for form in ("PNG", "JPEG"):
        canvas, frame = presize(decode(encoded(picture, form), min_side=40), 40)
        assert canvas.shape == (40, 60, 3)
        assert np.isfinite(frame).all()
        assert np.abs(canvas.reshape(-1, 3).astype(int) - RED).max() <= 8


MAGIC = [data[:16] for data, _ in ZOO.values()]


@settings(deadline=None, max_examples=300)
@given(st.sampled_from([b"", *MAGIC]), st.binary(max_size=300), st.sampled_from([None, 1, 40]))
@pytest.mark.filterwarnings("ignore")
def test_any_bytes_are_a_picture_or_an_error(start, rest, min_side):
    with contextlib.suppress(DataError):
        pixels = decode(start + rest, "any", min_side)
        assert pixels.dtype == np.uint8
        assert pixels.shape[2] == 3


@pytest.mark.slow
@pytest.mark.parametrize("real", [False, True], ids=["drawn", "photographs"])
def test_ten_thousand_damaged_pictures(real, tmp_path, request):
    """Each picture is read or refused within 2 s, without a crash, and in less than 1 GB."""
    sources = tmp_path / "sources"
    sources.mkdir()
    if real:
        folder = request.getfixturevalue("flowers")
        files = sorted(folder.glob("valid/*/*.jpg"))[::20]
        for file in files:
            with Image.open(file) as image:
                image.thumbnail((96, 96))
                for form in ("JPEG", "PNG", "WEBP"):
                    image.save(sources / f"{file.stem}.{form}", form, exif=image.getexif())
    else:
        for number, (data, _) in enumerate(ZOO.values()):
            (sources / f"{number:02d}").write_bytes(data)
    note = tmp_path / "note"
    script = Path(__file__).with_name("damage.py")
    done = subprocess.run(
        [sys.executable, script, sources, "10000", "0", note], capture_output=True, timeout=240
    )
    # If the process dies, the note holds what it was reading: the length in four bytes, and the
    # content.
    last = note.read_bytes()
    assert done.returncode == 0, (done.stderr[-2000:], last[4 : 4 + int.from_bytes(last[:4])])
    said = json.loads(done.stdout)
    assert 3000 < said["refused"] < 9000
    assert said["slowest"] < 2
    assert said["megabytes"] < 1000


@settings(deadline=None, max_examples=150)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(8, 40))
def test_canvas_has_one_size_for_every_picture(height, width, size):
    picture = np.full((height, width, 3), 77, np.uint8)
    canvas, frame = presize(picture, size)
    assert canvas.shape == canvas_shape(size) == (size, round(1.5 * size), 3)
    assert canvas.dtype == np.uint8
    assert frame.shape == (3, 3)
    assert frame.dtype == np.float32
    assert np.all(canvas == 77)
    # The kept region is not mirrored and lies on the canvas.
    assert np.linalg.det(frame) > 0
    for corner in ([0, 0, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1]):
        x, y, _ = frame @ np.array(corner)
        assert -1e-4 <= x <= canvas.shape[1] + 1e-4
        assert -1e-4 <= y <= size + 1e-4


def ramps(height: int, width: int) -> np.ndarray:
    """Returns a picture whose red is the column and whose green is the row, as fractions of 250."""
    pixels = np.zeros((height, width, 3))
    pixels[..., 0] = (np.arange(width) + 0.5) / width * 250
    pixels[..., 1] = ((np.arange(height) + 0.5) / height * 250)[:, None]
    return np.round(pixels).astype(np.uint8)


@settings(deadline=None, max_examples=150)
@given(
    st.integers(48, 400),
    st.integers(48, 400),
    st.integers(24, 64),
    st.floats(0.1, 0.9),
    st.floats(0.1, 0.9),
)
@example(height=48, width=72, size=43, u=0.875, v=0.875)
def test_frame_inverts_presize_to_half_a_pixel(height, width, size, u, v):
    """The point (u, v) of the kept region lies at the place on the canvas that `frame` gives.

    The ramps' colours tell where a pixel was in the whole picture. If the picture is longer than
    the canvas, the kept region is its middle.
    """
    canvas, frame = presize(ramps(height, width), size)
    kept_u = min(1.0, 1.5 * height / width)
    kept_v = min(1.0, 1.5 * width / height)
    x, y, _ = frame @ np.array([u, v, 1.0])
    column, row = int(x), int(y)
    red, green, _ = canvas[row, column].astype(float) / 250
    back_u, back_v, _ = np.linalg.inv(frame) @ np.array([column + 0.5, row + 0.5, 1.0])

    short, long = sorted((height, width))
    on_canvas = min(1.5 * size, long * size / short)
    pixels_u, pixels_v = (on_canvas, size) if width >= height else (size, on_canvas)
    # Colours are integers, 250 of which span the picture. Only whole pixels can be cropped, so the
    # kept part may be up to half a pixel shorter, and up to half a pixel off centre.
    slack = 1.0 / 250 + 1.0 / long
    expected_u, expected_v = 0.5 + (back_u - 0.5) * kept_u, 0.5 + (back_v - 0.5) * kept_v
    assert abs(red - expected_u) <= 0.5 * kept_u / pixels_u + slack
    assert abs(green - expected_v) <= 0.5 * kept_v / pixels_v + slack


def test_upright_picture_lies_on_its_side():
    """An upright picture is turned by 90 degrees, not mirrored; `frame` locates each quarter."""
    picture = np.asarray(quarters(40, 60))
    canvas, frame = presize(picture, 40)
    for (u, v), colour in zip(
        [(0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)], COLOURS, strict=True
    ):
        x, y, _ = frame @ np.array([u, v, 1.0])
        np.testing.assert_array_equal(canvas[int(y), int(x)], colour)


def test_long_picture_is_cut_evenly():
    """The middle of a panorama is kept: both sides lose equally much."""
    picture = ramps(50, 250)
    canvas, _ = presize(picture, 50)
    red = canvas[25, :, 0].astype(float)
    np.testing.assert_allclose(red[0] + red[-1], 250, atol=3)
    np.testing.assert_allclose(red[0], 250 * (250 - 75) / 2 / 250, atol=3)


@pytest.mark.parametrize("method", ["crop", "pad", "squish"])
@pytest.mark.parametrize("shape", [(84, 126), (126, 84), (20, 100), (84, 200), (200, 310)])
@pytest.mark.parametrize("profile", [None, adobe_rgb()])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_canvas_that_is_given_is_the_one_that_is_made(method, shape, profile, overwrite):
    """Presizing into one canvas of a batch gives the usual result; the others stay unchanged."""
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    original = picture.copy()
    wanted, frame = presize(picture, 48, profile, method)
    np.testing.assert_array_equal(picture, original)
    batch = np.full((3, *wanted.shape), 99, np.uint8)
    canvas, its_frame = presize(picture, 48, profile, method, batch[1], overwrite)
    assert overwrite or np.array_equal(picture, original)
    np.testing.assert_array_equal(batch[1], wanted)
    np.testing.assert_array_equal(its_frame, frame)
    assert np.shares_memory(canvas, batch)
    assert np.all(batch[[0, 2]] == 99)


def test_rest_of_the_canvas_repeats_the_edge():
    canvas, frame = presize(ramps(40, 40), 40)
    end = int(frame[0, 0])
    assert end == 40
    np.testing.assert_array_equal(canvas[:, end:], np.repeat(canvas[:, end - 1 : end], 20, axis=1))


def test_a_picture_of_the_right_size_is_not_touched():
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    canvas, frame = presize(picture, 40)
    np.testing.assert_array_equal(canvas, picture)
    np.testing.assert_array_equal(frame, np.diag([60, 40, 1]))


def test_shrinking_does_not_alias():
    """A chessboard of single pixels, far too fine for the canvas, becomes an even grey.

    Reductions below 3/2 are left out: they interpolate each pixel from four, and the canvas is
    almost large enough to show the board.
    """
    board = np.indices((400, 600)).sum(0) % 2 * 255
    picture = np.repeat(board[..., None], 3, axis=2).astype(np.uint8)
    for shrinking in (1.55, 1.75, 1.95, 2.05, 2.7, 8):
        canvas, _ = presize(picture, round(400 / shrinking))
        assert canvas.std() <= 2, shrinking
        assert abs(canvas.mean() - 127.5) < 2, shrinking


def zone_plate(height: int, width: int) -> np.ndarray:
    """Returns rings that grow finer outwards and so have every frequency in every direction."""
    y, x = np.indices((height, width)) - np.array([height, width]).reshape(2, 1, 1) / 2 + 0.5
    rings = 127.5 + 127.5 * np.cos(np.pi * (x**2 + y**2) / width)
    return np.repeat(np.round(rings)[..., None], 3, axis=2).astype(np.uint8)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Returns the peak signal-to-noise ratio in decibels."""
    return 10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2))


@pytest.mark.parametrize("size", [364, 308, 268, 250, 228, 200, 190, 134])
def test_every_shrinking_is_as_clean_as_a_filter_that_widens(size):
    """A reduced zone plate is at most 2 dB worse than with Pillow's bilinear filter.

    The reference is the Lanczos filter, which preserves the most detail. OpenCV's plain linear
    filter is 3 dB worse than Pillow's at a factor of 1.6, and 5 dB worse at 1.75.
    """
    picture = zone_plate(400, 600)
    canvas, _ = presize(picture, size)
    wanted, pillow = (
        Image.fromarray(picture).resize(canvas.shape[1::-1], filtering)
        for filtering in (Image.Resampling.LANCZOS, Image.Resampling.BILINEAR)
    )
    assert psnr(np.asarray(wanted), canvas) >= psnr(np.asarray(wanted), np.asarray(pillow)) - 2


@pytest.mark.parametrize("size", [364, 250, 228, 200, 190])
def test_a_fraction_of_a_jpeg_does_not_alias(size):
    """A JPEG does not alias, even if it is decoded at 1/2, where libjpeg averages four pixels.

    If it were decoded at a fraction such as 5/8, the PSNR would be only 15 dB at 228 pixels.
    """
    data = encoded(Image.fromarray(zone_plate(400, 600)), "JPEG", quality=98, subsampling=0)
    canvas, _ = presize(decode(data, min_side=size), size)
    whole = Image.fromarray(decode(data))
    wanted = np.asarray(whole.resize(canvas.shape[1::-1], Image.Resampling.LANCZOS))
    assert psnr(wanted, canvas) >= 20


def test_enlarging_is_smooth():
    """If 8 pixels are enlarged to 40, no step exceeds a fifth of the step in the original."""
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[:, 4:] = 250
    canvas, _ = presize(picture, 40)
    assert np.abs(np.diff(canvas[20, :, 0].astype(int))).max() <= 250 / 5 + 1


def seen_through(frame: np.ndarray, canvas: np.ndarray, shift: float = 0.0) -> np.ndarray:
    """Returns a canvas's values at 60x60 points of the unit square, interpolated between pixels.

    The points are moved by `shift` pixels of the canvas along both axes.
    """
    points = np.stack([*np.meshgrid(*[np.linspace(0.05, 0.95, 60)] * 2), np.ones((60, 60))])
    x, y, _ = np.einsum("ij,jab->iab", frame.astype(float), points) - 0.5 + shift
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, bottom = (x - left)[..., None], (y - top)[..., None]
    upper = canvas[top, left] * (1 - right) + canvas[top, left + 1] * right
    lower = canvas[top + 1, left] * (1 - right) + canvas[top + 1, left + 1] * right
    return upper * (1 - bottom) + lower * bottom


def test_photographs_at_a_fraction_look_like_the_whole(flowers):
    """JPEG's scaled decoding changes a photograph by less than a shift by half a pixel would.

    The decoder rounds sides up to whole pixels: half of 333 pixels is 166.5, which becomes 167.
    """
    files = sorted(flowers.glob("valid/*/*.jpg"))[::6]
    assert files
    for file in files:
        data = file.read_bytes()
        scaled, frame = presize(decode(data, file.name, min_side=96), 96)
        whole, whole_frame = presize(decode(data, file.name), 96)
        expected = seen_through(whole_frame, whole)
        shifted = seen_through(whole_frame, whole, shift=0.5)
        error = np.mean((seen_through(frame, scaled) - expected) ** 2)
        assert error < np.mean((shifted - expected) ** 2), file.name
