"""Pictures with colour profiles reach the network as sRGB, as a screen would show them."""

import io
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageCms

from jaxch5.data.canvases import Canvases
from jaxch5.data.decode import decode
from jaxch5.data.packing import pack, without_filling
from jaxch5.data.picture import held, presized
from jaxch5.data.profiles import adobe_rgb, load_profile, matrix_profile, profile_name, to_srgb
from jaxch5.data.source import from_arrays, read_pixels
from jaxch5.data.sources.packed import from_packed

# The x and y of red, green and blue, followed in `SPACES` by the gamma. Sources: ITU-R BT.709,
# SMPTE EG 432-1 and Adobe RGB (1998).
SRGB = [(0.64, 0.33), (0.30, 0.60), (0.15, 0.06)]
SPACES = {
    "Adobe RGB": ([(0.64, 0.33), (0.21, 0.71), (0.15, 0.06)], 563 / 256),
    "Display P3, plain gamma": ([(0.68, 0.32), (0.265, 0.69), (0.15, 0.06)], 2.2),
    "sRGB's primaries, gamma 1.8": (SRGB, 1.8),
}
D65, D50 = np.array([0.3127, 0.3290]), np.array([0.9642, 1.0, 0.8249])
BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


def to_xyz(primaries: list[tuple[float, float]]) -> np.ndarray:
    """Returns the matrix from linear red, green and blue to XYZ adapted to D50."""
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    white = np.array([D65[0] / D65[1], 1, (1 - D65.sum()) / D65[1]])
    adapted = np.linalg.inv(BRADFORD) @ np.diag((BRADFORD @ D50) / (BRADFORD @ white)) @ BRADFORD
    return adapted @ columns * np.linalg.solve(columns, white)


def by_arithmetic(pixels: np.ndarray, primaries: list, gamma: float) -> np.ndarray:
    """Converts pixels with the given primaries and gamma to sRGB in float64."""
    linear = (pixels / 255) ** gamma
    linear = linear @ (np.linalg.inv(to_xyz(SRGB)) @ to_xyz(primaries)).T
    linear = np.clip(linear, 0, 1)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return 255 * curved


def profile_of(name: str) -> bytes:
    primaries, gamma = SPACES[name]
    return matrix_profile(name, [tuple(column) for column in to_xyz(primaries).T], gamma)


def colours() -> np.ndarray:
    """Returns a picture of random colours in blocks of 8x8 pixels, which JPEG preserves."""
    shades = np.random.default_rng(0).integers(0, 256, (6, 10, 3), np.uint8)
    return shades.repeat(8, 0).repeat(8, 1)


def encoded(pixels: np.ndarray, form: str, profile: bytes | None, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, icc_profile=profile, **options)
    return file.getvalue()


LOSSLESS = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}}


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("form", LOSSLESS)
def test_a_profile_is_obeyed_as_arithmetic_has_it(name, form):
    wanted = by_arithmetic(colours(), *SPACES[name])
    made = decode(encoded(colours(), form, profile_of(name), **LOSSLESS[form]))
    # In dark colours, where the curves are steep, 8 bits are too few for a smaller error.
    assert np.abs(made - wanted).max() <= 2
    assert np.abs(made - wanted).mean() < 0.5
    assert np.abs(wanted - colours()).max() > 10


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("min_side", [None, 24])
@pytest.mark.parametrize("form", ["JPEG", "AVIF"])
def test_a_profile_of_a_photograph_is_obeyed(name, min_side, form):
    """A lossy picture, even a shrunk one, is decoded as if it had no profile and then converted."""
    options = {"quality": 98, "subsampling": "4:4:4"}
    plain = decode(encoded(colours(), form, None, **options), min_side=min_side)
    made = decode(encoded(colours(), form, profile_of(name), **options), min_side=min_side)
    assert np.abs(made - by_arithmetic(plain, *SPACES[name])).max() <= 2


@pytest.mark.parametrize("name", SPACES)
def test_every_way_to_the_network_converts_once_and_after_the_shrink(name, tmp_path):
    """Training, packing and prediction make the same canvas of a path, content or PIL picture."""
    pixels = colours().repeat(2, 0).repeat(2, 1)
    contents = [encoded(pixels, "PNG", profile) for profile in (profile_of(name), None)]
    file = tmp_path / "1.png"
    file.write_bytes(contents[0])
    opened = Image.open(io.BytesIO(contents[0]))
    canvas, frame = presized(file, 40)
    plain, _ = presized(contents[1], 40)
    assert np.abs(canvas - by_arithmetic(plain, *SPACES[name])).max() <= 2
    for picture in (contents[0], opened, held(opened), held(io.BytesIO(contents[0]))):
        assert np.array_equal(presized(picture, 40)[0], canvas)
    source = from_arrays([file, contents[0], opened], [0, 1, 1], ["a", "b"])
    assert all(
        np.array_equal(made, canvas) for made in Canvases(source, 40, keep=False)([0, 1, 2])[0]
    )
    pack(source, tmp_path / "packed", 40, quality=100)
    packed = from_packed(tmp_path / "packed")
    for item in range(3):
        kept = decode(packed.read(item)).astype(int)
        assert np.abs(kept - without_filling(canvas, frame)).max() <= 8
    assert np.array_equal(read_pixels(source, 0), decode(contents[0]))


def srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def test_what_is_srgb_is_not_touched():
    """A picture whose profile is sRGB keeps its pixels.

    A profile with sRGB's primaries but another gamma does not count as sRGB.
    """
    primaries = [tuple(column) for column in to_xyz(SRGB).T]
    assert load_profile(srgb()) is None
    assert load_profile(matrix_profile("my screen", primaries, 1.8)) is not None
    assert np.array_equal(decode(encoded(colours(), "PNG", srgb())), colours())


@pytest.mark.parametrize("profile", [b"", b"no profile", b"\0" * 200, adobe_rgb()[:200]])
def test_a_broken_profile_costs_the_profile(profile):
    for form in LOSSLESS:
        content = encoded(colours(), form, profile, **LOSSLESS[form])
        assert np.array_equal(decode(content), colours())


def grey_profile(gamma: float) -> bytes:
    """Returns a profile for grey pictures, which has a curve but no primaries."""
    colour = matrix_profile("greys", [(0.4, 0.2, 0.0), (0.4, 0.7, 0.1), (0.1, 0.1, 0.7)], gamma)
    return colour.replace(b"RGB ", b"GRAY", 1).replace(b"rTRC", b"kTRC", 1)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_greys_have_profiles_of_their_own(form):
    shades = np.arange(0, 256, 5, np.uint8).repeat(8)[None].repeat(8, 0)
    options = {"quality": 98} if form == "JPEG" else {}
    made = decode(encoded(shades, form, grey_profile(1.8), **options))
    wanted = by_arithmetic(shades[..., None].repeat(3, 2), SRGB, 1.8)
    assert np.abs(made - wanted)[shades > 20].max() <= 3
    # A profile for grey is ignored if the picture has colours.
    assert np.array_equal(decode(encoded(colours(), "PNG", grey_profile(1.8))), colours())
    # A profile for colours also applies to a grey picture.
    made = decode(encoded(shades, "PNG", profile_of("Adobe RGB")))
    assert (
        np.abs(made - by_arithmetic(shades[..., None].repeat(3, 2), *SPACES["Adobe RGB"])).max()
        <= 2
    )


def test_pixels_that_are_kept_decoded_are_converted_at_each_reading_and_not_once_more():
    """`from_arrays` decodes pictures of more than 8 bits once, and keeps their own colours."""
    shades = np.arange(0, 256, 5, np.uint16).repeat(8)[None].repeat(8, 0)
    image = Image.fromarray(shades * 257)
    image.info["icc_profile"] = grey_profile(1.8)
    source = from_arrays([image, image], [0, 1], ["a", "b"])
    wanted = by_arithmetic(shades[..., None].repeat(3, 2), SRGB, 1.8)
    for _ in range(3):
        assert np.abs(read_pixels(source, 0) - wanted)[shades > 20].max() <= 3


@pytest.mark.parametrize("order", ["little", "big"])
def test_a_camera_that_only_names_adobe_rgb_is_believed(order):
    """A picture without a profile is read as Adobe RGB if EXIF's interoperability index is R03."""
    exif = Image.Exif()
    exif.endian = "<" if order == "little" else ">"
    exif[0x8769] = {0xA001: 65535, 0xA005: {1: "R03"}}
    plain = decode(encoded(colours(), "JPEG", None, quality=98))
    made = decode(encoded(colours(), "JPEG", None, quality=98, exif=exif))
    assert np.abs(made - by_arithmetic(plain, *SPACES["Adobe RGB"])).max() <= 2
    exif[0x8769] = {0xA001: 1, 0xA005: {1: "R98"}}
    assert np.array_equal(decode(encoded(colours(), "JPEG", None, quality=98, exif=exif)), plain)


CHANNELS = (b"rTRC", b"gTRC", b"bTRC")


def parametric(kind: int, *numbers: float, channels: tuple[bytes, ...] = CHANNELS) -> bytes:
    """Returns Adobe RGB's profile with a parametric curve, as in version 4, for some channels."""
    fixed = [round(65536 * number) for number in numbers]
    curve = b"para" + struct.pack(f">IHH{len(fixed)}i", 0, kind, 0, *fixed)
    plain = adobe_rgb()
    # The curve is put at the end, and the entries of the channels are made to point to it.
    entries, there = plain, struct.pack(">II", len(plain), len(curve))
    for name in channels:
        place = entries.index(name, 128, 400) + 4
        entries = entries[:place] + there + entries[place + 8 :]
    whole = entries + curve + bytes(-len(curve) % 4)
    return struct.pack(">I", len(whole)) + whole[4:]


CURVES = [
    (0, 1.8),
    (3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045),
    (4, 2.2, 0.95, 0.05, 0.2, 0.05, 0.0, 0.0),
]


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("channels", [CHANNELS, CHANNELS[:1], CHANNELS[1:]])
def test_our_arithmetic_is_that_of_lcms(curve, channels):
    """Our conversion, which is much faster than that of lcms, differs from it by at most one level.

    It is tested with profiles that have one curve for all colours or different curves.
    """
    content = parametric(*curve, channels=channels)
    profile = load_profile(content)
    assert profile is not None
    assert profile.arithmetic is not None
    pixels = np.random.default_rng(1).integers(0, 256, (60, 80, 3), np.uint8)
    opened, screen = ImageCms.ImageCmsProfile(io.BytesIO(content)), ImageCms.createProfile("sRGB")
    bpc = ImageCms.Flags.BLACKPOINTCOMPENSATION
    transform = ImageCms.buildTransform(opened, screen, "RGB", "RGB", flags=bpc)
    made = np.asarray(transform.apply(Image.fromarray(pixels)))
    assert np.abs(profile.arithmetic.apply(pixels).astype(int) - made).max() <= 1


@pytest.mark.parametrize("curve", [(0, 1.8), (1, 1.8, 1.0, 0.0)], ids=["arithmetic", "lcms"])
def test_threads_share_a_transform(curve):
    """Threads that convert pictures with one transform at the same time do not mix them up.

    Curves of the second kind are left to lcms, whose transform is one object for all threads.
    """
    content = parametric(*curve)
    profile = load_profile(content)
    assert load_profile(bytes(bytearray(content))) is profile
    assert (profile.arithmetic is None, profile.transform is None) == (curve[0] == 1, curve[0] == 0)
    shades = colours().repeat(4, 0).repeat(4, 1)
    pictures = [np.roll(shades, 8 * step, axis=1) for step in range(24)]
    alone = [to_srgb(picture.copy(), content) for picture in pictures]
    for picture, made in zip(pictures[:3], alone, strict=False):
        exact = by_arithmetic(picture, SPACES["Adobe RGB"][0], 1.8)
        assert np.abs(made - exact).max() <= 2
    with ThreadPoolExecutor(8) as pool:
        together = pool.map(lambda picture: to_srgb(picture.copy(), content), pictures * 4)
        for one, other in zip(together, alone * 4, strict=True):
            assert np.array_equal(one, other)


def test_a_table_of_numbers_is_a_curve_too():
    table = np.round(65535 * (np.arange(1024) / 1023) ** 1.8).astype(">u2").tobytes()
    curve = b"curv" + struct.pack(">II", 0, 1024) + table
    plain = parametric(0, 1.8)
    begin = plain.rindex(b"para")
    content = plain[:begin] + curve
    for name in (b"rTRC", b"gTRC", b"bTRC"):
        place = content.index(name, 128, 400) + 8
        content = content[:place] + struct.pack(">I", len(curve)) + content[place + 4 :]
    content = struct.pack(">I", len(content)) + content[4:]
    profile = load_profile(content)
    assert profile is not None
    assert profile.arithmetic is not None


def test_a_profile_names_itself():
    assert profile_name(profile_of("Adobe RGB")) == "Adobe RGB"
    assert profile_name(b"none") == "damaged"
