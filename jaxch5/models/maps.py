"""Makes maps of where a network looks, by gradient-weighted class activation mapping (Grad-CAM)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from jaxch5.errors import ConfigError
from jaxch5.models.spec import ModelSpec

# A map with a side below this hardly locates anything, so an earlier stage's map is used instead.
LEAST_SIDE = 4


class Place(NamedTuple):
    """Holds the index of the module call that returns a map, and the map's shape."""

    call: int
    shape: tuple[int, ...]


def in_full(model: nn.Module) -> nn.Module:
    """Returns a copy of a module, set to float32 and without `remat` if it has these settings."""
    full = {"dtype": jnp.float32, "remat": False}
    names = {field.name for field in fields(model)}
    return model.clone(**{name: value for name, value in full.items() if name in names})


def find_map(model: nn.Module, spec: ModelSpec, variables: PyTree, sides: tuple[int, int]) -> Place:
    """Finds a network's last map with sides long enough to locate things, or else its largest map.

    Args:
        model: Module of the network.
        spec: The network's architecture, which may say which module returns the map.
        variables: The module's variables, or their shapes.
        sides: Height and width of the network's input, in pixels.

    Raises:
        ConfigError: No module of the network returns a map.

    Example:
        >>> from jaxch5.models.registry import create_model, spec_of
        >>> model, picture = create_model("resnet18", 2), jnp.zeros((1, 64, 96, 3))
        >>> variables = jax.eval_shape(lambda: model.init(jax.random.key(0), picture, train=False))
        >>> find_map(model, spec_of("resnet18"), variables, (64, 96)).shape
        (1, 4, 6, 256)
    """
    found: list[tuple[int, Place]] = []
    module = spec.last_map.module

    def note(call: int, name: str, output: Any) -> Any:
        shape = getattr(output, "shape", ())
        if (name == module if module else len(shape) == 4) and math.prod(shape[1:-1]) > 1:
            found.append((name.count("/"), Place(call, shape)))
        return output

    picture = jax.ShapeDtypeStruct((1, *sides, 3), jnp.float32)
    jax.eval_shape(lambda *of: _watched(model, of[0], of[1], note), variables, picture)
    if not found:
        missing = f" named {module}" if module else ""
        raise ConfigError(
            f"{spec.name} has no map that shows where it looks: none of its linen modules{missing} "
            "returns [batch, height, width, channels]; last_map of its ModelSpec can name a module"
        )
    # Only the outermost modules count, since a module in a block may be one of several branches.
    outermost = min(depth for depth, _ in found)
    places = [place for depth, place in found if depth == outermost]
    fine = [place for place in places if module or min(place.shape[1:3]) >= LEAST_SIDE]
    return fine[-1] if fine else max(places, key=lambda place: math.prod(place.shape[1:3]))


def class_maps(
    model: nn.Module,
    spec: ModelSpec,
    place: Place,
    variables: PyTree,
    pictures: Float[Array, "batch height width 3"],
    labels: Int[Array, "batch"],
) -> tuple[Float[Array, "batch height width"], Float[Array, "batch classes"], Int[Array, "batch"]]:
    """Computes with Grad-CAM how much, from 0 to 1, each pixel supports a class.

    The channels of a map are summed, each multiplied by the mean gradient of the class's logit with
    respect to that channel. Sums below 0 are evidence against the class and become 0 (Selvaraju et
    al., 1610.02391). If the map consists of tokens, each token is multiplied by its own gradient,
    not by the mean (HiResCAM, Draelos and Carin, 2011.08891). The function is pure.

    Args:
        model: Module that computes in float32.
        spec: The module's architecture.
        place: Where the map is, as returned by `find_map`.
        variables: The module's variables.
        pictures: Pictures in the form that the network takes.
        labels: Index of each picture's class; a negative index stands for the most probable class.

    Returns:
        Maps with the height and width of the pictures, logits, and indices of the classes.
    """

    def logits_of(nudge: Array) -> tuple[Array, tuple[Array, ...]]:
        kept = []

        def see(call: int, name: str, output: Any) -> Any:
            if call != place.call:
                return output
            kept.append(output.astype(jnp.float32) + nudge)
            return kept[0].astype(output.dtype)

        logits = _watched(model, variables, pictures, see)
        chosen = jnp.where(labels < 0, jnp.argmax(logits, axis=1), labels)
        of_class = jnp.take_along_axis(logits, chosen[:, None], axis=1)
        return jnp.sum(of_class), (kept[0], logits, chosen)

    nudge = jnp.zeros((len(pictures), *place.shape[1:]))
    gradient, (values, logits, chosen) = jax.grad(logits_of, has_aux=True)(nudge)
    height, width = pictures.shape[1:3]
    if tokens := spec.last_map.tokens:
        patch = math.isqrt(height * width // (values.shape[1] - tokens))
        grid = len(pictures), height // patch, width // patch, -1
        values, gradient = (of[:, tokens:].reshape(grid) for of in (values, gradient))
        # The class token attends to each patch differently, so a mean gradient says little.
        support = jnp.sum(values * gradient, axis=-1)
    else:
        support = jnp.sum(values * jnp.mean(gradient, axis=(1, 2), keepdims=True), axis=-1)
    return enlarged(support, (height, width), spec.last_map.corner), logits, chosen


def enlarged(
    maps: Float[Array, "batch rows columns"], sides: tuple[int, int], corner: bool
) -> Float[Array, "batch height width"]:
    """Enlarges maps to the size of pictures by linear interpolation, with values from 0 to 1.

    Args:
        maps: Maps to enlarge; values below 0 become 0.
        sides: Height and width of the pictures, in pixels.
        corner: See `LastMap`.

    Example:
        >>> found = enlarged(jnp.array([[[0.0, 2.0, -1.0]]]), (1, 6), corner=False)
        >>> found[0, 0].tolist()  # doctest: +ELLIPSIS
        [0.0, 0.33..., 1.0, 1.0, 0.33..., 0.0]
    """
    maps = nn.relu(maps)
    for axis, side in zip((1, 2), sides, strict=True):
        count = maps.shape[axis]
        # With `corner`, the stride is a power of two, and a map may reach beyond the picture.
        stride = 2 ** round(math.log2(side / count)) if corner else side / count
        places = jnp.arange(side) / stride if corner else (jnp.arange(side) + 0.5) / stride - 0.5
        far = jnp.clip(places, 0, count - 1)[:, None] - jnp.arange(count)
        maps = jnp.moveaxis(jnp.tensordot(maps, nn.relu(1 - jnp.abs(far)), (axis, 1)), -1, axis)
    greatest = jnp.max(maps, axis=(1, 2), keepdims=True)
    return maps / jnp.where(greatest > 0, greatest, 1)


def _watched(
    model: nn.Module, variables: PyTree, pictures: Any, see: Callable[[int, str, Any], Any]
) -> Any:
    """Returns logits; `see` is called with each module's output in turn, and may replace it."""
    numbers = itertools.count()

    def intercept(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        output = call(*args, **kwargs)
        if context.method_name != "__call__":
            return output
        return see(next(numbers), "/".join(context.module.path), output)

    with nn.intercept_methods(intercept):
        return model.apply(variables, pictures, train=False)
