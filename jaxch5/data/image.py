"""One picture: decoding, and presizing onto a canvas."""

from __future__ import annotations

import cv2
import numpy as np
import simplejpeg
from jaxtyping import Float32, UInt8
from PIL import Image

from jaxch5.data.formats import SUFFIXES as SUFFIXES
from jaxch5.data.formats import read_header as read_header
from jaxch5.errors import DataError
from jaxch5.text import printable

# Decoding takes 12 bytes a pixel at most, and in some formats 24, so that no picture takes a
# gigabyte.
MAX_PIXELS = 80_000_000
TWICE_THE_MEMORY = ("WEBP", "AVIF", "JPEG2000", "HEIF")
# A JPEG file spends a bit on each block of 8 by 8 of each component, of which subsampling makes 10
# for 512 pixels: 410 pixels a byte. A file that promises more is cut short, or was made to harm.
MAX_JPEG_PIXELS_A_BYTE = 512
# Each scan of a progressive JPEG goes over all of it; encoders make about ten. Thumbnails and
# makers' notes in a file's header may look like some more.
MAX_JPEG_SCANS = 64
START_OF_SCAN = b"\xff\xda"
# Pixels that become RGB at a time, where that takes copies.
STRIP = 1_000_000
EXIF_ORIENTATION = 0x0112
ASPECT = 3 / 2
# libjpeg's other fractions, such as 5/8, take longer to decode than the whole.
FRACTIONS = (8, 4, 2)
# How far each filter shrinks; measured with zone plates, see docs/benchmarks.md.
LINEAR, SMOOTHED = 3 / 2, 2.0


def decode(
    data: bytes, reference: str = "picture", min_side: int | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """A picture as a person would see it: upright, in RGB.

    EXIF's orientation is obeyed; grey, palette, CMYK and 16-bit pictures become RGB, what is
    transparent lies on white, and of an animation the first frame is taken.

    Args:
        data: the file's content, in one of the formats of docs/training.md#pictures.
        reference: what errors call the picture.
        min_side: a JPEG may be decoded at a fraction of its size, as long as no side falls below
            this many pixels; None decodes all of it.

    Raises:
        DataError: the picture cannot be read; the line says why.

    Example:
        >>> import io
        >>> file = io.BytesIO()
        >>> Image.new("L", (4, 3), color=7).save(file, "PNG")
        >>> decode(file.getvalue())[0, 0].tolist()
        [7, 7, 7]
    """
    try:
        image = read_header(data)
        _refuse_bombs(image, data)
        if image.format == "JPEG" and image.mode in ("L", "RGB"):
            return _decode_jpeg(data, image, min_side)
        return _pixels(image)
    except Image.UnidentifiedImageError:
        reason = "is no picture in a known format" if data else "is an empty file"
    except DataError as error:
        reason = f"is {error}"
    except Image.DecompressionBombError as error:
        reason = f"is refused: {error}"
    except Exception as error:
        # Decoders raise whatever a broken file leads them to.
        reason = f"cannot be decoded ({printable(str(error)) or type(error).__name__})"
    raise DataError(
        f"{reference}: {reason}; mend the file or remove it; --data.on-bad skip leaves such files "
        "out of a set"
    )


def _refuse_bombs(header: Image.Image, data: bytes) -> None:
    """Refuses a small file that would take much memory or time, before it does."""
    pixels = header.width * header.height
    limit = MAX_PIXELS // 2 if header.format in TWICE_THE_MEMORY else MAX_PIXELS
    if pixels > limit:
        raise Image.DecompressionBombError(
            f"{header.width} x {header.height} are more than {limit:,} pixels"
        )
    if header.format == "JPEG":
        if pixels > MAX_JPEG_PIXELS_A_BYTE * len(data):
            raise Image.DecompressionBombError(
                f"{header.width} x {header.height} pixels cannot be in {len(data):,} bytes; "
                "it is cut short"
            )
        scans = 1 if _in_one_scan(header, data) else data.count(START_OF_SCAN)
        if scans > MAX_JPEG_SCANS:
            raise Image.DecompressionBombError(f"{scans} scans are more than {MAX_JPEG_SCANS}")


def _in_one_scan(header: Image.Image, data: bytes) -> bool:
    """Whether a JPEG's first scan is all of it, as in most; no decoder takes a second one then.

    To count the scans means to go through the whole file, a twentieth of the time of a picture.
    """
    layers = getattr(header, "layers", 0)
    begin = START_OF_SCAN + bytes([0, 2 * layers + 6, layers])
    # Pillow has read up to the end of the first scan's parameters.
    file = getattr(header, "fp", None)
    place = file.tell() - 2 * layers - 8 if file else -1
    return place > 0 and data.startswith(begin, place) and "progressive" not in header.info


def _decode_jpeg(
    data: bytes, header: Image.Image, min_side: int | None
) -> UInt8[np.ndarray, "height width 3"]:
    # libjpeg-turbo through simplejpeg took half the time of Pillow's decoder on photographs.
    short = min(header.size)
    part = next((part for part in FRACTIONS if min_side and short >= part * min_side), 1)
    # It takes the smallest fraction that reaches these sizes; asked for none, it decodes all.
    least = [-(-side // part) if part > 1 else 0 for side in header.size]
    try:
        pixels = simplejpeg.decode_jpeg(data, "RGB", min_width=least[0], min_height=least[1])
    except ValueError:
        # It refuses any oddity; Pillow lets harmless ones pass, as viewers do, but no cut file.
        return _pixels(header)
    # The decoder rounds a fraction of the size up, which moves points by up to a pixel; rounded to
    # the nearest it is half of one.
    pixels = pixels[: round(header.height / part), : round(header.width / part)]
    return _upright(pixels, header.getexif().get(EXIF_ORIENTATION, 1))


def _pixels(image: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
    """Decodes with Pillow."""
    image.load()
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        pixels[top : top + rows] = np.asarray(_to_rgb(strip))
    # A TIFF has been turned, and says so, by now.
    return _upright(pixels, image.getexif().get(EXIF_ORIENTATION, 1))


def _upright(
    pixels: UInt8[np.ndarray, "height width 3"], orientation: int
) -> UInt8[np.ndarray, "new_height new_width 3"]:
    """Undoes EXIF's orientation, 1 to 8: the last four exchange the axes before they mirror."""
    # OpenCV takes a twentieth of NumPy's time here.
    if orientation in (5, 6, 7, 8):
        pixels = cv2.transpose(pixels)
    if orientation in (2, 3, 6, 7):
        pixels = cv2.flip(pixels, 1)
    if orientation in (3, 4, 7, 8):
        pixels = cv2.flip(pixels, 0)
    return np.ascontiguousarray(pixels)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, np.float64)
        # Integers are 16 bits deep, whatever they are stored in; floats run from 0 to 1.
        values = values * 255 if image.mode == "F" else values / 257
        return Image.fromarray(np.clip(values + 0.5, 0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, image).convert("RGB")
    return image.convert("RGB")


def canvas_shape(presize: int) -> tuple[int, int, int]:
    """Height, width and channels of the canvas on which every picture of a set lies.

    Example:
        >>> canvas_shape(460)
        (460, 690, 3)
    """
    return presize, round(ASPECT * presize), 3


def presize(
    picture: UInt8[np.ndarray, "height width 3"], size: int
) -> tuple[UInt8[np.ndarray, "size canvas_width 3"], Float32[np.ndarray, "3 3"]]:
    """Brings a picture's short side to `size` and lays it on a canvas, keeping its shape.

    An upright picture is laid on its side; what is longer than the canvas is cut evenly; the rest
    of the canvas repeats the picture's edge.

    Returns:
        The canvas, and the frame: a matrix that takes a point of the unit square (the upright
        picture's kept region, x to the right and y down) to a pixel of the canvas, pixel centres
        being at half integers.

    Example:
        >>> canvas, frame = presize(np.zeros((10, 20, 3), np.uint8), size=8)
        >>> canvas.shape, (frame @ [1.0, 1.0, 1.0]).tolist()
        ((8, 12, 3), [12.0, 8.0, 1.0])
    """
    height, width, _ = canvas_shape(size)
    upright = picture.shape[0] > picture.shape[1]
    lying = cv2.rotate(picture, cv2.ROTATE_90_COUNTERCLOCKWISE) if upright else picture
    short, long, _ = lying.shape
    kept = min(long, max(1, round(short * width / height)))
    begin = (long - kept) // 2
    lying = lying[:, begin : begin + kept]
    length = min(width, max(1, round(kept * height / short)))
    if upright:
        frame = [[0, length, 0], [-size, 0, size], [0, 0, 1]]
    else:
        frame = [[length, 0, 0], [0, size, 0], [0, 0, 1]]

    resized = _resize(lying, length, height)
    canvas = cv2.copyMakeBorder(resized, 0, 0, 0, width - length, cv2.BORDER_REPLICATE)
    return canvas, np.array(frame, np.float32)


def _resize(
    picture: UInt8[np.ndarray, "height width 3"], width: int, height: int
) -> UInt8[np.ndarray, "new_height new_width 3"]:
    shrinking = max(picture.shape[0] / height, picture.shape[1] / width)
    if shrinking <= LINEAR:
        return cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)
    if shrinking <= SMOOTHED:
        # Smoothing by [1 2 1] / 4 takes what would alias, and the bicubic gives back what it took
        # of the rest: nearer to Lanczos than Pillow's bilinear filter, in a third of its time.
        smooth = cv2.GaussianBlur(picture, (3, 3), 0)
        return cv2.resize(smooth, (width, height), interpolation=cv2.INTER_CUBIC)
    # Pillow's bilinear filter widens with the reduction, so that nothing aliases.
    image = Image.fromarray(np.ascontiguousarray(picture))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
