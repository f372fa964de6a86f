"""Decodes a picture (`decode`), and resizes it onto a canvas of a fixed shape (`presize`)."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from jaxch5.data.decode import decode as decode
from jaxch5.data.profiles import to_srgb

ASPECT = 3 / 2
# Largest reduction for which each filter is used; docs/benchmarks.md has the measurements.
LINEAR, SMOOTHED = 3 / 2, 2.0
# Smoothing blurs both axes equally, so it is used only if their reductions differ by no more than
# this factor.
EVEN = 1.2
# libjpeg writes no side above 65,500 pixels; the format itself allows 65,535.
JPEG_SIDE = 65_500


def canvas_shape(presize: int, method: str = "crop") -> tuple[int, int, int]:
    """Returns the height, width and channels of the canvas onto which every picture is put.

    Example:
        >>> canvas_shape(460), canvas_shape(460, "pad")
        ((460, 690, 3), (460, 460, 3))
    """
    return presize, round(ASPECT * presize) if method == "crop" else presize, 3


def presize(
    picture: UInt8[np.ndarray, "height width 3"],
    size: int,
    profile: bytes | None = None,
    method: str = "crop",
    out: UInt8[np.ndarray, "size canvas_width 3"] | None = None,
    overwrite: bool = False,
) -> tuple[UInt8[np.ndarray, "size canvas_width 3"], Float32[np.ndarray, "3 3"]]:
    """Resizes a picture to `size` and puts it on a canvas, whose shape depends on `method`.

    With "crop" the picture keeps its aspect ratio, and `size` is its short side: a tall picture is
    turned on its side, and what exceeds the canvas is cut off evenly at both ends. The other
    methods keep the whole picture, on a square canvas: with "pad" it keeps its aspect ratio, and
    `size` is its long side; with "squish" it is stretched to fill the canvas. Where the picture
    does not cover the canvas, the picture's edge is repeated.

    Args:
        picture: Pixels, upright.
        size: Short side of the canvas, in pixels.
        profile: ICC profile of the pixels' colours, which are converted to sRGB after
            resizing; None if they are in sRGB.
        method: How the network will frame the picture; see `Framing`.
        out: Array to use as the canvas; None makes a new one.
        overwrite: Whether the memory of `picture` may be overwritten, which saves time.

    Returns:
        The canvas, and the frame, which is a matrix that maps points of the unit square to points
        on the canvas. The unit square stands for the region of the upright picture that was kept,
        with x pointing right and y pointing down. On the canvas, lengths are in pixels, and the
        centres of pixels are at half integers, as in `Batch`.

    Example:
        >>> canvas, frame = presize(np.zeros((10, 20, 3), np.uint8), size=8)
        >>> canvas.shape, (frame @ [1.0, 1.0, 1.0]).tolist()
        ((8, 12, 3), [12.0, 8.0, 1.0])
    """
    canvas = np.empty(canvas_shape(size, method), np.uint8) if out is None else out
    if method != "crop":
        return canvas, _whole(picture, size, profile, method, canvas, overwrite)
    height, width, _ = canvas.shape
    upright = picture.shape[0] > picture.shape[1]
    lying = cv2.rotate(picture, cv2.ROTATE_90_COUNTERCLOCKWISE) if upright else picture
    short, long, _ = lying.shape
    kept = min(long, max(1, round(short * width / height)))
    begin = (long - kept) // 2
    length = min(width, max(1, round(kept * height / short)))
    if upright:
        frame = [[0, length, 0], [-size, 0, size], [0, 0, 1]]
    else:
        frame = [[length, 0, 0], [0, size, 0], [0, 0, 1]]
    _lay(lying[:, begin : begin + kept], length, height, profile, canvas, overwrite)
    return canvas, np.array(frame, np.float32)


def _whole(
    picture: UInt8[np.ndarray, "height width 3"],
    size: int,
    profile: bytes | None,
    method: str,
    canvas: UInt8[np.ndarray, "size size 3"],
    overwrite: bool,
) -> Float32[np.ndarray, "3 3"]:
    sides = picture.shape[1::-1]
    width, height = (
        size if method == "squish" else max(1, round(side * size / max(sides))) for side in sides
    )
    _lay(picture, width, height, profile, canvas, overwrite)
    wider = sides[0] / sides[1] if method == "squish" else 1.0
    return (wider * np.diag([width, height, 1.0])).astype(np.float32)


def _lay(
    picture: UInt8[np.ndarray, "height width 3"],
    width: int,
    height: int,
    profile: bytes | None,
    canvas: UInt8[np.ndarray, "canvas_height canvas_width 3"],
    overwrite: bool,
) -> None:
    """Resizes a picture into a canvas's corner, and repeats its edge over the rest."""
    below, beside = canvas.shape[0] - height, canvas.shape[1] - width
    if below or beside:
        picture = _resize(picture, width, height, None, overwrite)
        cv2.copyMakeBorder(picture, 0, below, 0, beside, cv2.BORDER_REPLICATE, canvas)
    else:
        _resize(picture, width, height, canvas, overwrite)
    to_srgb(canvas, profile)


def shrink(
    picture: UInt8[np.ndarray, "height width 3"], size: int
) -> UInt8[np.ndarray, "height width 3"]:
    """Shrinks a picture, uncropped, to a short side of at most `size`; never enlarges it."""
    sides = picture.shape[:2]
    scale = min(1.0, size / min(sides), JPEG_SIDE / max(sides))
    height, width = (max(1, round(side * scale)) for side in sides)
    return _resize(picture, width, height)


def _resize(
    picture: UInt8[np.ndarray, "height width 3"],
    width: int,
    height: int,
    into: UInt8[np.ndarray, "new_height new_width 3"] | None = None,
    overwrite: bool = False,
) -> UInt8[np.ndarray, "new_height new_width 3"]:
    less, shrinking = sorted((picture.shape[0] / height, picture.shape[1] / width))
    if shrinking <= LINEAR:
        return cv2.resize(picture, (width, height), into, interpolation=cv2.INTER_LINEAR)
    if shrinking <= min(SMOOTHED, EVEN * less):
        # Smoothing by [1 2 1] / 4 removes what would alias; the bicubic filter sharpens the rest.
        # For reductions above 1.73, the result is closer to that of a Lanczos filter than that of
        # Pillow's bilinear filter is, and takes a third of the time.
        smooth = cv2.GaussianBlur(picture, (3, 3), 0, dst=picture if overwrite else None)
        return cv2.resize(smooth, (width, height), into, interpolation=cv2.INTER_CUBIC)
    # Pillow's bilinear filter becomes wider as the reduction grows, so that nothing aliases.
    image = Image.fromarray(np.ascontiguousarray(picture))
    into = np.empty((height, width, 3), np.uint8) if into is None else into
    into[:] = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    return into
