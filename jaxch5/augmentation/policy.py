"""Defines policies of random changes, and applies them to batches to make the network's input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxch5.augmentation import color, geometry
from jaxch5.augmentation.center import center
from jaxch5.augmentation.sample import sample, subsamples_for
from jaxch5.batch import Batch
from jaxch5.errors import ConfigError
from jaxch5.framing import CROP, Framing, Size, height_and_width

# How many draws (random numbers from 0 to 1) each operation takes. Operations that are not in use
# take theirs too, so that leaving an operation out does not change what the others do.
DRAWS = {
    "position": 1,
    "warp": 4,
    "flip": 2,
    "rotate": 2,
    "zoom": 4,
    "crop": 3,
    "lighting": 4,
    "saturation": 2,
    "hue": 2,
    "gray": 1,
}
# The smallest share of a photograph's area that a crop keeps by default.
MIN_SCALE = 0.75
Draws = dict[str, Float[Array, "batch count"]]


@dataclass(frozen=True)
class Policy:
    """Holds the ranges and probabilities of random changes, which `aug_transforms` describes.

    The last three fields are not parameters of `aug_transforms`, and are 0 by default. To change
    one, call `dataclasses.replace`, as in `replace(policy, max_hue=0.1)`.

    Args:
        max_saturation: Largest change of saturation, 0 to 0.99; its probability is `p_lighting`.
        max_hue: Largest shift of the hue (see `random_hue`), 0 to 0.5; its probability is
            `p_lighting`.
        p_gray: Probability that a picture turns grey.

    Raises:
        ConfigError: A value is out of its range, or `flip_vert` is set without `do_flip`.
    """

    do_flip: bool
    flip_vert: bool
    max_rotate: float
    min_zoom: float
    max_zoom: float
    max_lighting: float
    max_warp: float
    p_affine: float
    p_lighting: float
    min_scale: float
    max_saturation: float = 0.0
    max_hue: float = 0.0
    p_gray: float = 0.0

    def __post_init__(self) -> None:
        ranges = {
            "max_rotate": (0, 180),
            "min_zoom": (0.01, self.max_zoom),
            "max_lighting": (0, 0.99),
            "max_warp": (0, 0.5),
            "p_affine": (0, 1),
            "p_lighting": (0, 1),
            "min_scale": (0.01, 1),
            "max_saturation": (0, 0.99),
            "max_hue": (0, 0.5),
            "p_gray": (0, 1),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"augment.{name} = {value}: should be from {low} to {high}")
        if self.flip_vert and not self.do_flip:
            raise ConfigError("augment.flip_vert = true has no effect without augment.do_flip")


def aug_transforms(
    do_flip: bool = True,
    flip_vert: bool = False,
    max_rotate: float = 10.0,
    min_zoom: float = 1.0,
    max_zoom: float = 1.1,
    max_lighting: float = 0.2,
    max_warp: float = 0.2,
    p_affine: float = 0.75,
    p_lighting: float = 0.75,
    min_scale: float = 1.0,
) -> Policy:
    """Returns a policy of random changes, with fastai's names, defaults and meanings.

    Args:
        do_flip: Whether half of the pictures, at random, are mirrored.
        flip_vert: Whether `do_flip` applies one of the square's eight symmetries, drawn at random,
            instead of mirroring.
        max_rotate: Largest rotation either way, in degrees.
        min_zoom, max_zoom: Factors between which a zoom is drawn.
        max_lighting: Largest change of brightness and contrast, 0 to 0.99.
        max_warp: Largest change of perspective, 0 to 0.5.
        p_affine: Probability of a rotation, of a zoom, and of each of the warp's two tilts.
        p_lighting: Probability of a change of brightness, and of a change of contrast.
        min_scale: Smallest share of the area that a crop keeps, 0.01 to 1.

    Raises:
        ConfigError: A value is out of its range, or `flip_vert` is set without `do_flip`.

    Example:
        >>> aug_transforms(min_scale=0.75).max_zoom
        1.1
    """
    return Policy(
        do_flip, flip_vert, max_rotate, min_zoom, max_zoom,
        max_lighting, max_warp, p_affine, p_lighting, min_scale,
    )  # fmt: skip


def augment(
    policy: Policy | None,
    batch: Batch,
    key: Key[Array, ""],
    size: Size,
    dtype: Any = jnp.float32,
) -> Float[Array, "batch rows columns 3"]:
    """Changes each picture of a batch at random, and returns pictures with values from 0 to 1.

    The draws (random numbers) for an item depend only on the key and the item's `index`, not on the
    other items in the batch or on its size.

    Args:
        policy: Random changes, as returned by `aug_transforms`; if None, `center` is called
            instead.
        batch: Presized pictures.
        key: Key for the draws, a new one for each epoch.
        size: Side of the output, or its height and width, in pixels.
        dtype: Type of the output.

    Example:
        >>> index = jnp.zeros(1, jnp.int32)
        >>> frame = jnp.diag(jnp.array([12.0, 8.0, 1.0]))[None]
        >>> batch = Batch(jnp.ones((1, 8, 12, 3), jnp.uint8), frame, index, index, index == 0)
        >>> program = jax.jit(augment, static_argnames=("policy", "size"))
        >>> program(aug_transforms(), batch, jax.random.key(0), size=4).shape
        (1, 4, 4, 3)
    """
    if policy is None:
        return center(batch, size, dtype)
    if len(batch.index) == 1:
        # For a single sample, XLA's CPU compiler would order sums differently, so the sample is
        # doubled.
        twice = jax.tree.map(lambda leaf: jnp.repeat(jnp.asarray(leaf), 2, axis=0), batch)
        return augment(policy, jax.lax.optimization_barrier(twice), key, size, dtype)[:1]
    image, frame = jnp.asarray(batch.image), jnp.asarray(batch.frame)
    draws = draw(key, jnp.asarray(batch.index))
    scale = min(image.shape[1:3]) / min(height_and_width(size))
    pictures = sample(
        image,
        random_matrix(policy, draws, frame, size, batch.framing),
        frame,
        size,
        subsamples=subsamples_for(scale / min(policy.min_zoom, 1.0)),
        pad_mode=batch.framing.pad_mode,
        gathered=batch.framing.method == "squish",
    )
    return jnp.clip(random_color(policy, draws, pictures), 0.0, 1.0).astype(dtype)


def draw(key: Key[Array, ""], index: Int[Array, "batch"]) -> Draws:
    """Draws numbers from 0 to 1 for each operation and item, from the key folded with the index."""
    numbers = geometry.uniforms(key, index, sum(DRAWS.values()))
    ends = [sum(list(DRAWS.values())[: k + 1]) for k in range(len(DRAWS) - 1)]
    return dict(zip(DRAWS, jnp.split(numbers, ends, axis=1), strict=True))


def random_matrix(
    policy: Policy,
    draws: Draws,
    frame: Float[Array, "batch 3 3"],
    size: Size,
    framing: Framing = CROP,
) -> Float[Array, "batch 3 3"]:
    """Returns random matrices that map output pixels to canvas pixels."""

    def of_one(arguments: tuple[Draws, Array]) -> Array:
        draws, frame = jax.tree.map(lambda leaf: leaf[None], arguments)
        operations = _operations(policy, draws, frame, size, framing.method)
        return geometry.compose(*operations, geometry.square(size))[0]

    # On a CPU, samples are processed one at a time. Otherwise the order in which the compiled
    # program sums, and thus the last bits of a matrix, would depend on the size of the batch.
    return jax.lax.platform_dependent(
        (draws, frame), cpu=lambda batch: jax.lax.map(of_one, batch), default=jax.vmap(of_one)
    )


def _operations(
    policy: Policy, draws: Draws, frame: Float[Array, "batch 3 3"], size: Size, method: str
) -> list[Float[Array, "batch 3 3"]]:
    p = policy.p_affine
    mirror = geometry.random_dihedral if policy.flip_vert else geometry.random_flip
    mirrored = [mirror(draws["flip"])] if policy.do_flip else []
    # The part that is seen has the aspect ratio `placed` in the original picture, and `seen` in the
    # mirrored or turned picture; the two ratios differ only if rows and columns were swapped.
    placed = seen = geometry.aspect_seen(frame, size, method)
    square = isinstance(seen, float) and seen == 1
    if policy.flip_vert and not square:
        turned = mirrored[0][:, 0, 0] == 0
        seen = jnp.where(turned, 1 / seen, seen) if method == "squish" else seen
        placed = jnp.where(turned, 1 / seen, seen)
    operations = [frame, geometry.random_position(draws["position"], frame, placed, method)]
    if policy.max_warp > 0:
        operations.append(geometry.random_warp(draws["warp"], policy.max_warp, p))
    operations += mirrored
    if policy.max_rotate > 0:
        turn = [geometry.random_rotate(draws["rotate"], policy.max_rotate, p)]
        if not square:
            turn = [geometry.stretch(1 / seen), *turn, geometry.stretch(seen)]
        operations += turn
    if (policy.min_zoom, policy.max_zoom) != (1.0, 1.0):
        zoom = geometry.random_zoom(draws["zoom"], policy.min_zoom, policy.max_zoom, p)
        operations.append(zoom)
    if policy.min_scale < 1:
        operations.append(geometry.random_crop(draws["crop"], policy.min_scale))
    return operations


def random_color(
    policy: Policy, draws: Draws, pictures: Float[Array, "batch height width 3"]
) -> Float[Array, "batch height width 3"]:
    """Applies the policy's changes of colour, one after another.

    Only rounding errors can move a value out of the range from 0 to 1.
    """
    p = policy.p_lighting
    if policy.max_lighting > 0:
        pictures = color.random_lighting(draws["lighting"], pictures, policy.max_lighting, p)
    if policy.max_saturation > 0:
        pictures = color.random_saturation(draws["saturation"], pictures, policy.max_saturation, p)
    if policy.max_hue > 0:
        pictures = color.random_hue(draws["hue"], pictures, policy.max_hue, p)
    if policy.p_gray > 0:
        pictures = color.random_gray(draws["gray"], pictures, policy.p_gray)
    return pictures
