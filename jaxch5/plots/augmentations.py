"""Draws figures that show what each augmentation does, and what one interpolation preserves."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxch5.augmentation import geometry
from jaxch5.augmentation.center import center
from jaxch5.augmentation.policy import MIN_SCALE, Policy, aug_transforms, augment
from jaxch5.augmentation.sample import sample
from jaxch5.batch import Batch, repeated, without_labels
from jaxch5.data.picture import Picture, read_picture
from jaxch5.util.seeds import check_seed

if TYPE_CHECKING:
    from jaxch5.plots.figure import Figure

NOTHING = aug_transforms(
    do_flip=False, max_rotate=0.0, max_zoom=1.0, max_lighting=0.0, max_warp=0.0, min_scale=1.0
)
# The settings of a `Policy` that each operation uses.
OPERATIONS = {
    "position": (),
    "crop": ("min_scale",),
    "flip": ("do_flip", "flip_vert"),
    "rotate": ("max_rotate",),
    "zoom": ("min_zoom", "max_zoom"),
    "warp": ("max_warp",),
    "lighting": ("max_lighting",),
    "saturation": ("max_saturation",),
    "hue": ("max_hue",),
    "gray": ("p_gray",),
}
# As in presizing, a picture's short side is first reduced to this many times the output's side.
PRESIZE = 2


def plot_augmentations(
    picture: Picture, policy: Policy | None = None, size: int = 224, seed: int = 0, draws: int = 4
) -> Figure:
    """Draws a centre crop, a row for each operation of a policy, and a row for all of them.

    In its own row an operation is always applied, except that flips and grey stay random; the last
    row uses the policy's probabilities. Within a column, all rows but the first crop at the same
    position along the picture's long side, which the row "position" shows.

    Args:
        picture: Path, file, PIL picture or pixels; see `read_picture`.
        policy: Policy to draw; if None, it is `aug_transforms(min_scale=0.75)`.
        size: Side of the network's input, pixels.
        seed: Seed for the draws.
        draws: Number of columns.

    Example:
        >>> figure = plot_augmentations(np.zeros((30, 40, 3), np.uint8), size=16, draws=2)
        >>> [axes.get_title(loc="left") for axes in figure.axes][:4:2]
        ['centre crop', 'position']
    """
    from jaxch5.plots.figure import Figure

    policy = aug_transforms(min_scale=MIN_SCALE) if policy is None else policy
    rows = operations(policy)
    batch, key = _repeated(picture, draws, size), jax.random.key(check_seed(seed))
    count = 1 + len(rows)
    figure = Figure(figsize=(1.25 * draws + 0.2, 1.35 * count), layout="constrained")
    grid = figure.subplots(count, draws, squeeze=False)
    # One centre crop is enough: it would be the same in each column.
    pictures = {"centre crop": center(batch, size)[:1]}
    pictures |= {name: augment(alone, batch, key, size) for name, alone in rows.items()}
    for axis in grid.flat:
        axis.set_axis_off()
    for axes, (name, drawn) in zip(grid, pictures.items(), strict=True):
        axes[0].set_title(name, loc="left", fontsize=9)
        for axis, pixels in zip(axes, np.asarray(drawn), strict=False):
            axis.imshow(pixels)
    return figure


def operations(policy: Policy) -> dict[str, Policy]:
    """Returns a policy's operations: each alone, as in `plot_augmentations`, then all together.

    Example:
        >>> list(operations(aug_transforms(do_flip=False, max_warp=0.0)))
        ['position', 'rotate', 'zoom', 'lighting', 'all together']
    """
    certain = replace(NOTHING, p_affine=1.0, p_lighting=1.0)
    alone = {
        name: replace(certain, **{field: getattr(policy, field) for field in fields})
        for name, fields in OPERATIONS.items()
    }
    used = {name: one for name, one in alone.items() if name == "position" or one != certain}
    return used | {"all together": policy}


def plot_presizing(
    picture: Picture, size: int = 224, degrees: float = 30.0, zoom: float = 1.2, area: float = 0.7
) -> Figure:
    """Draws the same rotation, zoom and crop in two ways, side by side.

    On the left the picture is presized and interpolated once. On the right it is resized to the
    network's size, then interpolated by one operation after another. Each interpolation loses
    detail, and the rotation fills corners with reflections although the original continues there.

    Args:
        picture: See `plot_augmentations`; pictures that are not square show the difference best.
        size: Side of the network's input, pixels.
        degrees, zoom, area: The rotation, the zoom about the centre, and the share of the
            picture's area that a crop keeps.

    Example:
        >>> figure = plot_presizing(np.zeros((30, 40, 3), np.uint8), size=16)
        >>> [axes.get_title() for axes in figure.axes]
        ['presized, then one interpolation', 'resized, then one by one']
    """
    from jaxch5.plots.figure import Figure

    batch = _repeated(picture, 1, size)
    half = jnp.full(1, 0.5)
    steps = [
        geometry.rotate(jnp.full(1, degrees)),
        geometry.zoom(jnp.full(1, zoom), half, half),
        geometry.crop(jnp.full(1, area), half, half),
    ]
    figure = Figure(figsize=(8.4, 4.6), layout="constrained")
    ways = {
        "presized, then one interpolation": _at_once,
        "resized, then one by one": _one_by_one,
    }
    for axes, (title, way) in zip(figure.subplots(1, 2), ways.items(), strict=True):
        axes.imshow(np.asarray(way(batch, steps, size)[0]))
        axes.set_title(title)
        axes.set_axis_off()
    return figure


def _at_once(
    batch: Batch, steps: list[Float[Array, "1 3 3"]], size: int
) -> Float[Array, "1 {size} {size} 3"]:
    middle = geometry.position(batch.frame, jnp.full(1, 0.5))
    matrix = geometry.compose(batch.frame, middle, *steps, geometry.square(size))
    return sample(jnp.asarray(batch.image), matrix, batch.frame, size)


def _one_by_one(
    batch: Batch, steps: list[Float[Array, "1 3 3"]], size: int
) -> Float[Array, "1 {size} {size} 3"]:
    frame = jnp.diag(jnp.array([size, size, 1.0]))[None]
    pictures = center(batch, size)
    for step in steps:
        # Between operations a picture is rounded to 8 bits, as in libraries that work on pixels.
        stored = jnp.round(pictures * 255).astype(jnp.uint8)
        pictures = _at_once(replace(batch, image=stored, frame=frame), [step], size)
    return pictures


def _repeated(picture: Picture, count: int, size: int) -> Batch:
    """Returns a batch that has one picture `count` times, on canvases that the picture fills."""
    from PIL import Image

    pixels = read_picture(picture)
    height, width = pixels.shape[:2]
    scale = min(1.0, PRESIZE * size / min(height, width))
    target = max(1, round(width * scale)), max(1, round(height * scale))
    pixels = np.asarray(Image.fromarray(pixels).resize(target, Image.Resampling.BILINEAR))
    frame = np.diag([*target, 1.0]).astype(np.float32)
    return repeated(without_labels(pixels[None], frame[None]), count)
