"""Tests that damaged metadata is ignored: the pixels are those of the file without metadata."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxch5.data.decode import decode, look_at
from jaxch5.data.formats import orientation_of, without_metadata

pytestmark = pytest.mark.filterwarnings("ignore:Corrupt EXIF data", "ignore:Metadata Warning")

FORMS = {
    "JPEG": {"quality": 95},
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
    "AVIF": {"quality": 80},
}


def picture() -> Image.Image:
    rows, columns = np.indices((24, 40))
    return Image.fromarray(np.stack([rows * 10, columns * 6, rows + columns], -1).astype(np.uint8))


def encoded(form: str, **options) -> bytes:
    file = io.BytesIO()
    picture().save(file, form, **FORMS[form], **options)
    return file.getvalue()


def exif_of(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = "a description"
    exif[0x8769] = {0x9003: "2020:01:01 00:00:00"}
    return exif.tobytes()


EXIF = exif_of(1)
DAMAGED = st.one_of(
    st.binary(max_size=80),
    st.binary(max_size=40).map(lambda rest: b"Exif\0\0" + rest),
    st.binary(max_size=40).map(lambda rest: b"Exif\0\0II*\0\x08\0\0\0" + rest),
    st.binary(max_size=40).map(lambda rest: b"Exif\0\0MM\0*\0\0\0\x08" + rest),
    st.tuples(st.integers(6, len(EXIF) - 1), st.integers(0, 255)).map(
        lambda change: EXIF[: change[0]] + bytes([change[1]]) + EXIF[change[0] + 1 :]
    ),
)
PLAIN = {form: decode(encoded(form)) for form in FORMS}


def webp_with(kind: bytes, body: bytes) -> bytes:
    """Builds an extended WebP by hand, because Pillow does not write broken ones."""
    simple = encoded("WEBP")[12:]
    flag = {b"EXIF": 8, b"XMP ": 4, b"ICCP": 32}[kind]
    head = b"VP8X" + struct.pack("<II", 10, flag) + struct.pack("<I", 39)[:3]
    head += struct.pack("<I", 23)[:3]
    part = kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)
    whole = b"WEBP" + head + (part + simple if kind == b"ICCP" else simple + part)
    return b"RIFF" + struct.pack("<I", len(whole)) + whole


def png_with(kind: bytes, body: bytes, checksum: int = 0) -> bytes:
    data = encoded("PNG")
    check = zlib.crc32(kind + body) ^ checksum
    return (
        data[:33]
        + struct.pack(">I", len(body))
        + kind
        + body
        + struct.pack(">I", check)
        + data[33:]
    )


def jpeg_with(marker: int, body: bytes) -> bytes:
    data = encoded("JPEG")
    return data[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body + data[2:]


def avif_with(exif: bytes) -> bytes:
    """Returns an AVIF with its EXIF overwritten, because Pillow refuses to write damaged EXIF."""
    data = encoded("AVIF", exif=EXIF)
    end = data.index(b"a description")
    begin = max(data.rfind(order, 0, end) for order in (b"II*\0", b"MM\0*"))
    tiff = exif.removeprefix(b"Exif\0\0")[: end - begin]
    return data[:begin] + tiff.ljust(end - begin, b"\xff") + data[end:]


def upright_or_turned(pixels: np.ndarray, plain: np.ndarray) -> bool:
    """Checks whether pixels equal the plain ones, apart from rotation and mirroring.

    Damaged metadata may still state the right orientation, or a wrong one.
    """
    return any(
        np.array_equal(np.rot90(pixels, turn)[:, ::side], plain)
        for turn in range(4)
        for side in (1, -1)
    )


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(DAMAGED)
def test_any_bytes_for_exif_leave_the_pixels(exif):
    for data, form in (
        (jpeg_with(0xE1, exif), "JPEG"),
        (jpeg_with(0xE1, b"Exif\0\0" + exif), "JPEG"),
        (png_with(b"eXIf", exif), "PNG"),
        (webp_with(b"EXIF", exif), "WEBP"),
        (webp_with(b"EXIF", exif.removeprefix(b"Exif\0\0")), "WEBP"),
        (avif_with(exif), "AVIF"),
    ):
        assert upright_or_turned(decode(data, form), PLAIN[form]), (form, exif)
        assert look_at(data).size == (40, 24)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 3))
@pytest.mark.parametrize(
    "kind",
    [
        b"tEXt",
        b"zTXt",
        b"iTXt",
        b"iCCP",
        b"pHYs",
        b"gAMA",
        b"cHRM",
        b"sRGB",
        b"tIME",
        b"acTL",
        b"zzZz",
    ],
)
def test_any_bytes_in_a_png_beside_its_pixels_leave_them(kind, body, checksum):
    assert np.array_equal(decode(png_with(kind, body, checksum)), PLAIN["PNG"])


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60))
@pytest.mark.parametrize(
    "begin",
    [b"", b"ICC_PROFILE\0", b"MPF\0", b"Photoshop 3.0\0", b"http://ns.adobe.com/xap/1.0/\0"],
)
def test_any_bytes_in_a_jpegs_segments_leave_the_pixels(begin, body):
    for marker in (0xE1, 0xE2, 0xED, 0xFE):
        assert np.array_equal(decode(jpeg_with(marker, begin + body)), PLAIN["JPEG"])


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_for_webps_other_parts_leave_the_pixels(body):
    for kind in (b"XMP ", b"ICCP"):
        assert np.array_equal(decode(webp_with(kind, body)), PLAIN["WEBP"])


# Tags that determine a TIFF's pixels: sizes, strips and tiles, compression, colours, data types.
TIFF_PIXELS = {
    *(254, 255, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 280, 281, 284, 292, 293, 317),
    *(320, 322, 323, 324, 325, 332, 338, 339, 340, 341, 347, 512, 513, 514, 519, 520, 521),
    *(529, 530, 531, 532),
}
TIFF = encoded("TIFF", exif=EXIF, description="words")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_tags_of_a_tiff_leave_the_pixels(data):
    """Damage to a tag that does not determine the pixels leaves the pixels as they are."""
    (place,) = struct.unpack_from("<I", TIFF, 4)
    (count,) = struct.unpack_from("<H", TIFF, place)
    entries = [place + 2 + 12 * number for number in range(count)]
    spare = [
        entry for entry in entries if struct.unpack_from("<H", TIFF, entry)[0] not in TIFF_PIXELS
    ]
    assert spare
    damaged = bytearray(TIFF)
    entry = data.draw(st.sampled_from(spare))
    damaged[entry + 2 : entry + 12] = data.draw(st.binary(min_size=10, max_size=10))
    pixels = decode(bytes(damaged))
    assert upright_or_turned(pixels, PLAIN["TIFF"])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [0, 9, 65535])
def test_a_wrong_orientation_is_none(form, value):
    assert np.array_equal(decode(encoded(form, exif=exif_of(value))), PLAIN[form])


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_an_orientation_in_words_is_none(form):
    exif = Image.Exif()
    exif[0x0112] = 6
    entry = struct.pack("<HHI", 0x0112, 3, 1)
    words = exif.tobytes().replace(
        struct.pack(">HHI", 0x0112, 3, 1), struct.pack(">HHI", 0x0112, 2, 4)
    )
    words = words.replace(entry, struct.pack("<HHI", 0x0112, 2, 4))
    assert words != exif.tobytes()
    if form == "TIFF":
        data = encoded(form, exif=exif).replace(entry, struct.pack("<HHI", 0x0112, 2, 4))
    else:
        data = encoded(form, exif=words)
    assert np.array_equal(decode(data), PLAIN[form])


def test_orientation_is_kept_where_metadata_is_left_out():
    turned = encoded("PNG", exif=exif_of(6))
    broken = turned[:33] + png_with(b"pHYs", b"short")[33:50] + turned[33:]
    assert np.array_equal(np.rot90(decode(broken)), PLAIN["PNG"])


def test_orientation_from_xmp_and_from_imagemagick():
    def found(**info):
        image = picture()
        image.info = info
        return orientation_of(image)

    assert found(xmp=b'<rdf:Description tiff:Orientation="6"/>') == 6
    assert found(**{"XML:com.adobe.xmp": "<tiff:Orientation>3</tiff:Orientation>"}) == 3
    digits = exif_of(8).hex()
    assert found(**{"Raw profile type exif": f"\nexif\n  {len(digits)}\n{digits}"}) == 8
    assert found(**{"Raw profile type exif": "\nexif\n 3\nxyz"}) == 1


def test_a_format_without_such_parts_has_nothing_to_leave_out():
    file = io.BytesIO()
    picture().save(file, "GIF")
    assert not list(without_metadata(file.getvalue()))
