"""Reads a picture that is given in any usual form: a path, a file's content or pixels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from jaxtyping import Float32, Shaped, UInt8
from numpy.typing import ArrayLike
from PIL import Image

from jaxch5.data.decode import (
    AS_FILES_SAY,
    DEEP_MODES,
    Decoded,
    Reading,
    decode_opened,
    decode_stored,
)
from jaxch5.data.image import presize
from jaxch5.data.profiles import to_srgb
from jaxch5.errors import DataError
from jaxch5.util.address import is_address
from jaxch5.util.text import printable

Picture = (
    str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | BinaryIO
    | Image.Image
    | np.ndarray
    | ArrayLike
    | Decoded
)
# Possible numbers of channels: grey, grey with alpha, RGB and RGBA.
CHANNELS = (1, 2, 3, 4)
FORMS = "a path, a file's content, a PIL picture, or pixels"
# Largest number of characters of a path, or of another library's error, that a message repeats.
SHOWN = 200


def read_picture(
    picture: Picture,
    reference: str = "picture",
    min_side: int | None = None,
    reading: Reading = AS_FILES_SAY,
) -> UInt8[np.ndarray, "height width 3"]:
    """Returns a picture as a person would see it, whatever form it is given in.

    Args:
        picture: A path; a file's content, or an open file; a PIL picture; or pixels from 0 to 255,
            [height, width] or [height, width, channels] with 1 channel (grey), 2 (grey and
            alpha), 3 (RGB) or 4 (RGBA), as an array of any library or as lists. Transparent
            pixels are blended with white.
        reference: What error messages call the picture if it has no path.
        min_side, reading: See `decode`.

    Raises:
        DataError: The picture cannot be read; the message says why.

    Example:
        >>> read_picture([[0, 255]]).tolist()
        [[[0, 0, 0], [255, 255, 255]]]
    """
    pixels, profile = read_stored(picture, reference, min_side, reading)
    # A decoded picture is its owner's, and may be read again.
    return to_srgb(pixels.copy() if isinstance(picture, Decoded) else pixels, profile)


def presized(
    picture: Picture,
    size: int,
    reference: str = "picture",
    reading: Reading = AS_FILES_SAY,
    method: str = "crop",
    out: UInt8[np.ndarray, "size canvas_width 3"] | None = None,
) -> tuple[UInt8[np.ndarray, "size canvas_width 3"], Float32[np.ndarray, "3 3"]]:
    """Reads a picture and presizes it onto a canvas; all pictures reach a network in this way.

    Args:
        picture: See `read_picture`.
        size: Short side of the canvas, in pixels.
        reference: What error messages call the picture if it has no path.
        reading: See `decode`.
        method, out: See `presize`.

    Returns:
        Canvas and frame, as `presize` returns them.

    Raises:
        DataError: The picture cannot be read; the message says why.

    Example:
        >>> canvas, frame = presized([[0, 255]], size=4)
        >>> canvas.shape
        (4, 6, 3)
    """
    pixels, profile = read_stored(picture, reference, size, reading)
    # Pixels that were just decoded from bytes may be overwritten: nothing else uses them.
    return presize(pixels, size, profile, method, out, overwrite=isinstance(picture, bytes))


def read_stored(
    picture: Picture,
    reference: str = "picture",
    min_side: int | None = None,
    reading: Reading = AS_FILES_SAY,
) -> Decoded:
    """Reads a picture like `read_picture`, but leaves the colours unconverted."""
    if isinstance(picture, bytes):
        # Bytes, the usual case, come first: the checks below take as long as reading a header.
        return decode_stored(picture, reference, min_side, reading)
    if isinstance(picture, Decoded):
        return picture
    if isinstance(picture, Image.Image):
        return decode_opened(picture, reference, reading)
    if isinstance(picture, str | os.PathLike):
        reference = os.fsdecode(picture)
    if is_encoded(picture):
        return decode_stored(content_of(picture, reference), reference, min_side, reading)
    return _in_color(check_pixels(picture, reference), reference)


def is_encoded(picture: Any) -> bool:
    """Checks whether a picture is given as a file: a path, a file's content or an open file."""
    kinds = (str, os.PathLike, bytes, bytearray, memoryview)
    return isinstance(picture, kinds) or hasattr(picture, "read")


def is_one(pictures: Any) -> bool:
    """Checks whether one picture was given in place of many, such as a path instead of a list.

    An array with three axes is one picture if its last axis is short enough for channels (1 to 4);
    otherwise it holds many grey pictures.

    Example:
        >>> is_one("cat.jpg"), is_one(["cat.jpg"]), is_one(np.zeros((28, 28, 3)))
        (True, False, True)
    """
    if isinstance(pictures, Image.Image) or is_encoded(pictures):
        return True
    shape: tuple[int, ...] = getattr(pictures, "shape", ())
    if isinstance(pictures, list | tuple) and isinstance(next(iter(pictures), None), list | tuple):
        # Nested lists have a shape only if all rows are equally long.
        with suppress(ValueError):
            shape = np.shape(cast(ArrayLike, pictures))
    return len(shape) == 2 or (len(shape) == 3 and shape[-1] in CHANNELS)


def held(picture: Picture, reading: Reading = AS_FILES_SAY) -> Picture | DataError:
    """Returns the picture, or a copy if the original may be gone by the time it is used.

    For example, a camera may fill the same buffer with its next picture, and a file may be closed.
    If the copy cannot be made, the error is returned in its place, so that it can be raised when
    the picture is used.
    """
    if isinstance(picture, str | os.PathLike | bytes):
        return picture
    try:
        if is_encoded(picture):
            return content_of(picture)
        pixels, profile = read_stored(picture, reading=reading)
        return Decoded(pixels.copy(), profile)
    except DataError as error:
        return error


def many(pictures: Any) -> Iterable[Any]:
    """Returns an iterable of pictures; a single picture becomes a list of length 1.

    Raises:
        DataError: The pictures cannot be iterated over.
    """
    if is_one(pictures):
        return [pictures]
    try:
        iter(pictures)
    except TypeError as error:
        raise DataError(f"pictures: {printable(str(error))}; give a list of them") from None
    return pictures


def as_images(images: Any) -> Sequence[Picture]:
    """Checks pictures before they are used, and returns them in a form that can be read again.

    Args:
        images: A list of pictures, each in a form that `read_picture` takes; or one array that
            holds all pictures. The array may be on disk (`np.memmap`, h5py), and stays there if it
            is uint8.

    Raises:
        DataError: `images` is a single picture, does not hold pictures, or can be read only once.
    """
    if isinstance(images, Image.Image) or is_encoded(images):
        raise DataError("from_arrays: images is a single picture; give a list of pictures")
    try:
        # Another library's array is converted once, since indexing it runs an operation each time.
        images = np.asarray(images) if hasattr(images, "__dlpack__") else images
    except Exception as error:
        raise DataError(f"from_arrays: images: {printable(str(error))[:SHOWN]}") from None
    if getattr(getattr(images, "dtype", None), "kind", "O") in "biuf":
        check_shape(images.shape[1:], "images")
        if isinstance(images, np.ndarray):
            return cast(Sequence[Picture], _as_bytes(images, "images"))
        # The array may be on disk, so only the first picture's type and values are checked.
        _as_bytes(np.asarray(images[:1]), "images")
        return cast(Sequence[Picture], images)
    if not hasattr(images, "__len__") or not hasattr(images, "__getitem__"):
        raise DataError(
            f"from_arrays: images is of type {type(images).__name__}, which cannot be read more "
            "than once; give a list of pictures"
        )
    if not isinstance(images, list | tuple) and not hasattr(images, "dtype"):
        return images
    return [_held(image, f"image {index:09d}") for index, image in enumerate(images)]


def _held(picture: Picture, reference: str) -> Picture:
    """Returns a picture in a form that can be read again; its pixels are checked, if it has any."""
    if isinstance(picture, Image.Image):
        try:
            picture.load()
        except Exception as error:
            raise DataError(f"{reference}: cannot be decoded ({printable(str(error))})") from None
        if picture.mode.startswith(DEEP_MODES):
            try:
                return decode_opened(picture, reference)
            except DataError as error:
                # What follows the semicolon begins with an option, which only commands have.
                reason = str(error).partition(";")[0]
                raise DataError(f"{reason}; convert the picture to 8 bits") from None
    elif not is_encoded(picture):
        return check_pixels(picture, reference)
    elif not isinstance(picture, str | os.PathLike):
        return content_of(picture, reference)
    return picture


def check_pixels(
    picture: Any, reference: str
) -> UInt8[np.ndarray, "height width"] | UInt8[np.ndarray, "height width channels"]:
    """Returns a picture's pixels as uint8, with their channels unchanged.

    Raises:
        DataError: The values are not one picture's pixels from 0 to 255.
    """
    try:
        # An array of another library may raise anything, for example on an accelerator.
        pixels = np.asarray(picture)
    except Exception as error:
        reason = (printable(str(error)) or type(error).__name__)[:SHOWN]
        raise DataError(
            f"{reference}: {type(picture).__name__} cannot be read as pixels ({reason})"
        ) from None
    if pixels.dtype.kind not in "biuf":
        raise DataError(f"{reference}: {type(picture).__name__} is not a picture; give {FORMS}")
    check_shape(pixels.shape, reference)
    return _as_bytes(pixels, reference)


def _as_bytes(pixels: np.ndarray, reference: str) -> UInt8[np.ndarray, "..."]:
    """Returns pixels as uint8, if they clearly range from 0 to 255; booleans become 0 and 255."""
    if pixels.dtype.kind == "b":
        return pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype == np.uint8:
        return pixels
    if not pixels.size:
        return pixels.astype(np.uint8)
    low, high = pixels.min(), pixels.max()
    # 8-bit numbers that come from a list or another library may have a wider type. Numbers of 16
    # bits, however, belong to pictures that have more than 8 bits.
    if pixels.dtype.kind in "iu" and pixels.dtype.itemsize > 2 and 0 <= low <= high <= 255:
        return pixels.astype(np.uint8)
    way_out = "; if 1 is white, give np.uint8(255 * pixels + 0.5)" * (pixels.dtype.kind == "f")
    raise DataError(
        f"{reference}: is {pixels.dtype} {list(pixels.shape)}; should be uint8 from 0 to 255, but "
        f"runs from {low:g} to {high:g}{way_out}"
    )


def check_shape(shape: Sequence[int], reference: str) -> None:
    """Checks that the pixels of a picture can have a given shape.

    Raises:
        DataError: No picture can have this shape.
    """
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in CHANNELS):
        reason = "; should be [height, width] or [height, width, channels], with 1 to 4 channels"
        if len(shape) == 3 and shape[0] in CHANNELS:
            reason = "; move its channels to the end: np.moveaxis(pixels, 0, -1)"
    elif 0 in shape:
        reason = ", so it has no pixels"
    else:
        return
    raise DataError(f"{reference}: has shape {list(shape)}{reason}")


def content_of(picture: Any, reference: str = "picture") -> bytes:
    """Returns the content of a picture that is given as a file (`is_encoded`).

    Raises:
        DataError: The content cannot be read.
    """
    try:
        if isinstance(picture, str | os.PathLike):
            reference = os.fsdecode(picture)
            if is_address(reference):
                raise DataError(f"{reference}: is an address; fetch it, and give the file's path")
            return Path(reference).expanduser().read_bytes()
        if hasattr(picture, "seekable") and picture.seekable():
            # Files are rewound, as Pillow rewinds them, so that the same file may be read twice.
            picture.seek(0)
        content = picture.read() if hasattr(picture, "read") else bytes(picture)
    except DataError:
        raise
    except Exception as error:
        # A path may hold a null character or name an unknown user's home, or a file may be closed.
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(f"{reference[:SHOWN]}: {printable(reason)[:SHOWN]}") from None
    if not isinstance(content, bytes):
        raise DataError(f"{reference}: is open as text; open it with mode 'rb'")
    return content


def _in_color(pixels: Shaped[np.ndarray, "height width *channels"], reference: str) -> Decoded:
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if channels in (2, 4):
        # As with a file, transparent pixels are blended with white.
        return decode_opened(Image.fromarray(np.ascontiguousarray(pixels)), reference)
    if channels == 1:
        pixels = np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    return Decoded(np.ascontiguousarray(pixels))
