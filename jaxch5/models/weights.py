"""Weights from and to PyTorch's names and layouts: torchvision's, timm's and fastai's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PyTree

from jaxch5.errors import WeightsError
from jaxch5.models.resnet import ARCHITECTURES, BasicBlock, Bottleneck, create_model

Path = tuple[str, ...]


def import_state_dict(state_dict: Mapping[str, Any], arch: str) -> dict[str, PyTree]:
    """Variables of a ResNet from a state dict of torchvision's or timm's, which name alike.

    A head under `head.`, numbered as the layers of fastai's `create_head` are, makes a
    `concat_pool` head.

    Args:
        state_dict: PyTorch's names and array-likes in PyTorch's layouts: convolutions
            [out, in, height, width], linear layers [out, in]. The prefix `module.` of data
            parallel training is ignored.
        arch: resnet18, 34, 50, 101 or 152.

    Returns:
        `{"params": ..., "batch_stats": ...}`, bit for bit the same numbers.

    Raises:
        WeightsError: an entry is missing, has another shape, or is not the architecture's.

    Example:
        >>> init = partial(create_model("resnet18", num_classes=3).init, train=False)
        >>> shapes = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
        >>> variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
        >>> state_dict = export_state_dict(variables, "resnet18")
        >>> state_dict["conv1.weight"].shape
        (64, 3, 7, 7)
        >>> imported = import_state_dict(state_dict, "resnet18")
        >>> imported["params"]["conv1"]["kernel"].shape
        (7, 7, 3, 64)
    """
    entries = {
        name.removeprefix("module."): np.asarray(value)
        for name, value in state_dict.items()
        if not name.endswith("num_batches_tracked")
    }
    holds = architecture_of(entries)
    if holds not in (arch, None):
        raise WeightsError(f"weights of {arch}: these are weights of {holds}")
    head, last = ("concat_pool", FASTAI_LAST) if FASTAI_LAST in entries else ("linear", "fc.bias")
    _refuse(arch, "is missing", [name for name in (last,) if name not in entries])
    expected = _shapes(arch, len(np.atleast_1d(entries[last])), head)
    names = {path: _torch_name(path) for path in expected}
    _refuse(arch, "is missing", [name for name in names.values() if name not in entries])
    _refuse(arch, "is not part of it", sorted(entries.keys() - set(names.values())))
    variables = {}
    for path, name in names.items():
        value, shape = _from_torch(entries[name]), expected[path].shape
        if value.shape != shape:
            found, wanted = entries[name].shape, _to_torch(np.empty(shape)).shape
            raise WeightsError(f"weights of {arch}: {name} has shape {found} instead of {wanted}")
        variables[path] = jnp.asarray(value, expected[path].dtype)
    return unflatten_dict(variables)


def export_state_dict(variables: Mapping[str, PyTree], arch: str) -> dict[str, np.ndarray]:
    """A state dict of PyTorch's names and layouts; see `import_state_dict`.

    With a linear head, torchvision's ResNet loads it with `strict=True`. With a `concat_pool` head
    its body does, and fastai's `create_head` loads what stands under `head.`.

    Args:
        variables: `{"params": ..., "batch_stats": ...}`.
        arch: resnet18, 34, 50, 101 or 152.

    Raises:
        WeightsError: the variables are not those of `arch`.

    Example:
        >>> init = partial(create_model("resnet18", num_classes=3).init, train=False)
        >>> shapes = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
        >>> variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
        >>> export_state_dict(variables, "resnet18")["fc.weight"].shape
        (3, 512)
    """
    flat = flatten_dict(jax.device_get(dict(variables)))
    last = flat.get(("params", "head", "fc2", "kernel"))
    head = "linear" if last is None else "concat_pool"
    bias = flat.get(("params", "head", "bias"), ())
    expected = _shapes(arch, len(bias) if last is None else last.shape[1], head)
    dotted = ".".join
    _refuse(arch, "is missing", [dotted(path) for path in expected if path not in flat])
    _refuse(arch, "is not part of it", [dotted(path) for path in flat if path not in expected])
    state_dict = {}
    for path, value in flat.items():
        if value.shape != expected[path].shape:
            raise WeightsError(
                f"weights of {arch}: {dotted(path)} has shape {value.shape} instead of "
                f"{expected[path].shape}"
            )
        name = _torch_name(path)
        state_dict[name] = _to_torch(value)
        if name.endswith("running_var"):
            # PyTorch counts batches here and never reads the count with its default momentum.
            counter = name.replace("running_var", "num_batches_tracked")
            state_dict[counter] = np.zeros((), np.int64)
    return state_dict


def architecture_of(state_dict: Mapping[str, Any]) -> str | None:
    """The ResNet whose blocks a state dict of PyTorch's names has; None where it is no ResNet.

    Example:
        >>> architecture_of({"fc.bias": 0})
    """
    names = {name.removeprefix("module.") for name in state_dict}
    blocks = {tuple(name.split(".")[:2]) for name in names}
    depths = tuple(sum(block[0] == f"layer{stage}" for block in blocks) for stage in (1, 2, 3, 4))
    kind = Bottleneck if "layer1.0.conv3.weight" in names else BasicBlock
    return next(
        (arch for arch, made_of in ARCHITECTURES.items() if made_of == (kind, depths)), None
    )


def _shapes(arch: str, num_classes: int, head: str) -> dict[Path, jax.ShapeDtypeStruct]:
    init = partial(create_model(arch, num_classes, head).init, train=False)
    return flatten_dict(jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 32, 32, 3))))


def _refuse(arch: str, what: str, names: list[str]) -> None:
    if names:
        others = f" (and {len(names) - 1} others)" if len(names) > 1 else ""
        raise WeightsError(f"weights of {arch}: {names[0]} {what}{others}")


LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


# Heads by PyTorch's names: torchvision's layer, and the numbers of fastai's layers, between which
# lie those without weights (pooling, flattening, dropout, ReLU).
HEADS = {
    "head": "fc",
    "head.bn1": "head.2",
    "head.fc1": "head.4",
    "head.bn2": "head.6",
    "head.fc2": "head.8",
}
FASTAI_LAST = "head.8.weight"


def _torch_name(path: Path) -> str:
    _, *modules, leaf = path
    name = re.sub(r"_(\d+)", r".\1", ".".join(modules))
    return f"{HEADS.get(name, name)}.{LEAVES[leaf]}"


def _from_torch(value: np.ndarray) -> np.ndarray:
    """[out, in, height, width] to [height, width, in, out], and [out, in] to [in, out]."""
    return value.transpose({4: (2, 3, 1, 0), 2: (1, 0)}.get(value.ndim, range(value.ndim)))


def _to_torch(value: np.ndarray) -> np.ndarray:
    axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(value.ndim, range(value.ndim))
    return np.ascontiguousarray(value.transpose(axes))
