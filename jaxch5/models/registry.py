"""Finds architectures by name: the package's own, registered ones, and those at import paths.

The package's own architectures are imported on demand, so that listing their names costs nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from jaxch5.errors import ConfigError
from jaxch5.models.spec import BODY_AND_HEAD, ModelSpec, with_frozen_stages
from jaxch5.util.imports import check_choice, check_listed, load_object

if TYPE_CHECKING:
    import flax.linen as nn
    from jaxtyping import PyTree

# Import paths of the package's own specifications. To add an architecture, write a file for it, and
# add its name here.
_RESNETS = [f"resnet{kind}" for kind in (18, 34, 50, 101, 152, "18d", "34d", "50d", "101d")]
_CONVNEXTS = [f"convnext_{size}" for size in ("nano", "tiny", "small", "base")]
_PATCHES = ("patch16_224", "patch14_dinov2", "patch14_reg4_dinov2")
_VITS = [f"vit_{size}_{patch}" for patch in _PATCHES for size in ("small", "base")]
OURS = {
    name: f"jaxch5.models.{module}:{name.upper()}"
    for module, names in {"resnet": _RESNETS, "convnext": _CONVNEXTS, "vit": _VITS}.items()
    for name in names
}
_registered: dict[str, ModelSpec] = {}


def architectures() -> tuple[str, ...]:
    """Returns the names of all architectures: the package's own, then the registered ones."""
    return (*OURS, *_registered)


def register(spec: ModelSpec) -> None:
    """Makes an architecture known by its name within this process.

    Even without registration, a `ModelSpec` can be passed wherever an architecture's name can, and
    a configuration can name its import path (`package.module:SPEC`).

    Args:
        spec: Architecture to register.

    Raises:
        ConfigError: Another architecture has this name.

    Example:
        >>> register(spec_of("resnet18"))
        >>> register(ModelSpec("resnet18", build=lambda num_classes: None))
        Traceback (most recent call last):
        jaxch5.errors.ConfigError: resnet18 is another architecture's name; choose another name
    """
    _refuse_taken(spec)
    if spec.name not in OURS:
        _registered[spec.name] = spec


def _refuse_taken(spec: ModelSpec) -> None:
    if spec.name in architectures() and _known(spec.name) != spec:
        raise ConfigError(f"{spec.name} is another architecture's name; choose another name")


def _known(name: str) -> ModelSpec:
    if name in OURS:
        found: ModelSpec = load_object(OURS[name], "model.arch")
        return found
    return _registered[name]


def spec_of(arch: str | ModelSpec | Any, modules: Collection[str] = ()) -> ModelSpec:
    """Returns the specification of an architecture.

    Args:
        arch: Name, import path, specification, or your own module.
        modules: Names of your module's top-level modules, if they are known. If these are named as
            in a ResNet, the head too, your module is treated as having a ResNet's stages.

    Raises:
        ConfigError: There is no such architecture, or another one has its name.

    Example:
        >>> spec_of("resnet50").stages
        ('stem', 'layer1', 'layer2', 'layer3', 'layer4', 'head')
    """
    if not isinstance(arch, str | ModelSpec):
        return _of_module(arch, modules)
    spec: Any = arch
    if isinstance(arch, str):
        try:
            check_choice(arch, architectures(), "model.arch")
        except ValueError as error:
            raise ConfigError(str(error)) from None
        if arch in architectures():
            return _known(arch)
        spec = load_object(arch, "model.arch")
        if not isinstance(spec, ModelSpec):
            raise ConfigError(
                f"model.arch = {arch}: should be a ModelSpec, but is of type {type(spec).__name__}"
            )
        spec = replace(spec, import_path=arch)
    _refuse_taken(spec)
    return spec


def _of_module(module: nn.Module, modules: Collection[str]) -> ModelSpec:
    name = str(getattr(module, "arch", type(module).__name__))
    if name in OURS:
        return _known(name)
    resnet = _known("resnet18")
    # If the modules have a ResNet's names, the groups of layers are those of a ResNet. Any other
    # body is frozen as a whole.
    like = "layer4_0" in modules and {*map(resnet.stage, modules)} == {*resnet.stages}
    stages, fastai = (resnet.stages, resnet.fastai) if like else (BODY_AND_HEAD, ())

    def frozen(module: nn.Module, count: int) -> nn.Module:
        return with_frozen_stages(module, count if like else len(resnet.stages) - 1)

    return ModelSpec(
        name, lambda num_classes: module, stages, fastai=fastai, frozen=frozen, names=None
    )


def create_model(
    arch: str | ModelSpec | nn.Module,
    num_classes: int,
    head: str | None = None,
    dtype: Any = None,
    remat: bool = False,
    drop_path: float = 0.0,
) -> nn.Module:
    """Builds a classifier of normalized pictures [B, H, W, 3].

    The classifier is a linen module, called as `model.apply(variables, x, train=bool)`.

    Args:
        arch: An architecture (one of `architectures()`, an import path or a `ModelSpec`), or your
            own module; a linen module is returned unchanged, and flax's bridge turns an nnx module
            into a linen module.
        num_classes: Number of logits.
        head: "linear" (as in pretraining), "concat_pool" (fastai's) or, for a ViT, "mean_pool", for
            an architecture that offers several, or one of a `ModelSpec`'s own; None takes the
            first. Your own module keeps its head.
        dtype: Type of the computation, float32 (None), bfloat16 or float16; logits are float32.
            Your own module computes in the types that it was made with, whatever is given here.
        remat: Whether a block's activations are recomputed for the gradient, which takes less
            memory and more time (Chen et al., 1604.06174).
        drop_path: Rate of stochastic depth (Huang et al., 1603.09382) in the last block of a
            ConvNeXt or a ViT; the rate rises linearly from 0 in the first block.

    Raises:
        ConfigError: The architecture or the head does not exist, or a setting was chosen that the
            architecture or your own module does not take.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from functools import partial
        >>> model = create_model("resnet18", num_classes=10)
        >>> init = partial(model.init, train=False)
        >>> shapes = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
        >>> sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
        11181642
    """
    import numpy as np

    if not isinstance(arch, str | ModelSpec):
        _refuse_for_module(arch, head=head, remat=remat, drop_path=drop_path)
        return _as_linen(arch)
    spec = spec_of(arch)
    if head and not spec.heads:
        raise ConfigError(f"model.head = {head}: {spec.name} has one kind of head; leave it out")
    if head is None and spec.heads:
        head = spec.heads[0]
    if spec.heads:
        try:
            check_listed(str(head), spec.heads, "model.head")
        except ValueError as error:
            raise ConfigError(str(error)) from None
    extras = {"remat": remat or None, "drop_path": drop_path or None}
    given = {"head": head if spec.heads else None, "dtype": dtype, **extras}
    takes = inspect.signature(spec.build).parameters
    settings = {name: value for name, value in given.items() if name in takes and value is not None}
    for name, value in extras.items():
        if value and name not in takes:
            shown = str(value).lower()
            raise ConfigError(
                f"model.{name} = {shown}: the build function of {spec.name} has no parameter {name}"
            )
    if dtype is not None and "dtype" not in takes and np.dtype(dtype) != np.float32:
        precision = {"bfloat16": "bf16", "float16": "fp16"}.get(np.dtype(dtype).name, dtype)
        raise ConfigError(
            f"model.precision = {precision}: the build function of {spec.name} has no parameter "
            "dtype"
        )
    module = _as_linen(spec.build(num_classes, **settings))
    if spec.heads and getattr(module, "head", None) != head:
        raise ConfigError(f"{spec.name}: its module should have the attribute head = {head!r}")
    return module


def shapes_by_tracing(model: nn.Module, sides: tuple[int, int]) -> tuple[PyTree, PyTree]:
    """Returns the shapes of a network's outputs for one picture, and of its variables.

    Args:
        model: Module that is called on pictures.
        sides: Height and width of the pictures, in pixels.

    Example:
        >>> outputs, variables = shapes_by_tracing(create_model("resnet18", 10), (32, 48))
        >>> outputs.shape, sorted(variables)
        ((1, 10), ['batch_stats', 'params'])
    """
    import jax
    import numpy as np

    init = partial(model.init_with_output, train=False)
    picture = jax.ShapeDtypeStruct((1, *sides, 3), np.float32)
    shapes: tuple[PyTree, PyTree] = jax.eval_shape(init, jax.eval_shape(jax.random.key, 0), picture)
    return shapes


def _refuse_for_module(module: Any, **settings: Any) -> None:
    for name, value in settings.items():
        # The user may have made the module with this very value.
        if value and getattr(module, name, None) != value:
            raise ConfigError(
                f"model.{name} = {str(value).lower()}: your own module does not take it; leave it "
                "out, or pass a ModelSpec whose build function does"
            )


def _as_linen(module: Any) -> nn.Module:
    from flax import linen

    if isinstance(module, linen.Module):
        return module
    # This is checked without importing nnx, which some releases of flax cannot import with a newer
    # jax.
    if not any(base.__module__.startswith("flax.nnx") for base in type(module).__mro__):
        raise ConfigError(
            f"arch = {module!r}: should be a name, a ModelSpec or a module, but is of type "
            f"{type(module).__name__}"
        )
    from jaxch5.models.bridge import as_linen

    return as_linen(module)
