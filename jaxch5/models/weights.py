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
from jaxch5.models.convert import Found, architecture_of, find_network
from jaxch5.models.resnet import create_model
from jaxch5.text import counted

Path = tuple[str, ...]


def import_state_dict(state_dict: Mapping[str, Any], arch: str) -> dict[str, PyTree]:
    """Returns variables of a ResNet from a state dict of torchvision's, timm's or fastai's.

    Prefixes of wrappers (`module.`, `_orig_mod.`, `backbone.`) are found; see
    `jaxch5.models.convert`. A head under `head.`, numbered as the layers of fastai's `create_head`
    are, makes a `concat_pool` head.

    Args:
        state_dict: PyTorch's names and array-likes in PyTorch's layouts: convolutions
            [out, in, height, width], linear layers [out, in].
        arch: resnet18, 34, 50, 101 or 152.

    Returns:
        `{"params": ..., "batch_stats": ...}`, bit for bit the same numbers; without `head` where
        the state dict has none.

    Raises:
        WeightsError: an entry is missing, has another shape, is not finite, or is not the
            architecture's.

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
    variables, left_out = import_network(find_network(state_dict, arch), arch)
    _refuse(arch, "is not part of it", left_out)
    return variables


def import_network(found: Found, arch: str) -> tuple[dict[str, PyTree], list[str]]:
    """Returns variables of a network that was found in a file; see `import_state_dict`.

    Args:
        found: what `find_network` returns.
        arch: the architecture that it should be of.

    Returns:
        The variables, and the names of entries that belong to neither the body nor a head that is
        known here, such as those of a projection head.

    Raises:
        WeightsError: as `import_state_dict`.
    """
    entries = {
        name: value
        for name, value in found.entries.items()
        if not name.endswith("num_batches_tracked")
    }
    holds = architecture_of(entries)
    if holds not in (arch, None):
        raise WeightsError(f"weights of {arch}: these are weights of {holds}")
    head, classes = _head_of(entries)
    expected = _shapes(arch, classes, head or "linear")
    names = {path: _torch_name(path) for path in expected if head or path[1] != "head"}
    others = sorted(entries.keys() - set(names.values()))
    # Within the body they change what it computes; a tensor of no module is not of a head either.
    foreign = [name for name in others if name.partition(".")[0] in BODY or "." not in name]
    spelled = found.spelled
    missing = [name for name in names.values() if name not in entries]
    _refuse(arch, "is missing", [spelled(name) for name in missing])
    _refuse(arch, "is not part of it", [spelled(name) for name in foreign])
    variables, misshapen = {}, []
    for path, name in names.items():
        value, wanted = entries[name], _torch_shape(expected[path].shape)
        if tuple(value.shape) != wanted:
            misshapen.append(f"{spelled(name)} has shape {tuple(value.shape)} instead of {wanted}")
            continue
        variables[path] = _as_floats(value, spelled(name))
    _refuse(arch, "", misshapen)
    _refuse_not_finite({spelled(names[path]): value for path, value in variables.items()})
    tree = {path: jnp.asarray(_from_torch(value)) for path, value in variables.items()}
    return unflatten_dict(tree), [spelled(name) for name in others]


def refuse_damaged(variables: Mapping[str, PyTree]) -> None:
    """Refuses weights with which nothing can be computed, before they are taken for a high rate.

    Args:
        variables: `{"params": ..., "batch_stats": ...}`.

    Raises:
        WeightsError: one holds a NaN, an infinite number, or a variance below zero.

    Example:
        >>> refuse_damaged({"params": {"head": {"bias": np.array([1.0, np.inf])}}})
        Traceback (most recent call last):
        jaxch5.errors.WeightsError: params.head.bias holds NaN or infinite numbers (1 of 2): ...
    """
    named = {".".join(path): np.asarray(leaf) for path, leaf in flatten_dict(variables).items()}
    _refuse_not_finite(named)
    for name, value in named.items():
        if name.endswith(".var") and (value < 0).any():
            raise WeightsError(f"{name} holds variances below zero: these weights are damaged")


def _refuse_not_finite(tensors: Mapping[str, np.ndarray]) -> None:
    for name, value in tensors.items():
        finite = np.isfinite(value)
        if not finite.all():
            raise WeightsError(
                f"{name} holds NaN or infinite numbers ({finite.size - finite.sum():,} of "
                f"{finite.size:,}): the training that made these weights failed; take earlier ones"
            )


def _as_floats(value: Any, name: str) -> np.ndarray:
    array = np.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise WeightsError(
            f"{name} holds {array.dtype}, not floats: take weights before they are quantized"
        )
    # What float32 does not hold becomes infinite, and is refused as such.
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def _head_of(entries: Mapping[str, Any]) -> tuple[str, int]:
    """Returns a state dict's head, "" where it is none known here, and its number of classes."""
    if "fc.weight" in entries or "fc.bias" in entries:
        last = entries.get("fc.bias", entries.get("fc.weight"))
        return "linear", int((np.shape(last) or (1,))[0])
    if len(FASTAI_HEAD & entries.keys()) > len(FASTAI_HEAD) / 2 and not _is_other_head(entries):
        return "concat_pool", int((np.shape(entries.get(FASTAI_LAST, 0)) or (1,))[0])
    return "", 1


def _is_other_head(entries: Mapping[str, Any]) -> bool:
    """Checks whether a head of fastai's has another width than ours throughout, by `lin_ftrs`."""
    shapes = [np.shape(entries.get(name, ())) for name in ("head.4.weight", "head.6.bias")]
    last = np.shape(entries.get(FASTAI_LAST, ()))
    widths = {*(shape[:1] for shape in shapes), last[1:2]}
    return len(widths) == 1 and widths != {(512,)}


def export_state_dict(variables: Mapping[str, PyTree], arch: str) -> dict[str, np.ndarray]:
    """A state dict of PyTorch's names and layouts; see `import_state_dict`.

    With a linear head, torchvision's and timm's ResNets load it with `strict=True`. With a
    `concat_pool` head their bodies load what does not begin with `head.`, and fastai's
    `create_head` the rest, without that prefix.

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


def fastai_state_dict(state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the same by the names of fastai's `vision_learner`, whose head `concat_pool` is.

    Args:
        state_dict: what `export_state_dict` returns.

    Example:
        >>> list(fastai_state_dict({"layer1.0.bn1.bias": 0, "head.8.weight": 0}))
        ['0.4.0.bn1.bias', '1.8.weight']
    """
    fastai = Found({}, "", numbered="fastai")
    return {fastai.spelled(name): value for name, value in state_dict.items()}


def _shapes(arch: str, num_classes: int, head: str) -> dict[Path, jax.ShapeDtypeStruct]:
    init = partial(create_model(arch, num_classes, head).init, train=False)
    return flatten_dict(jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 32, 32, 3))))


def _refuse(arch: str, what: str, names: list[str]) -> None:
    if names:
        # One is damaged; many are another kind of network.
        kind = "the file is cut short, or of another kind of ResNet"
        others = f" (and {counted(len(names) - 1, 'other')}: {kind})" if len(names) > 1 else ""
        raise WeightsError(f"weights of {arch}: {f'{names[0]} {what}'.rstrip()}{others}")


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
NORM = ("weight", "bias", "running_mean", "running_var")
FASTAI_HEAD = {f"head.{layer}.{leaf}" for layer in (2, 6) for leaf in NORM}
FASTAI_HEAD |= {"head.4.weight", FASTAI_LAST}
BODY = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")


def _torch_name(path: Path) -> str:
    _, *modules, leaf = path
    name = re.sub(r"_(\d+)", r".\1", ".".join(modules))
    return f"{HEADS.get(name, name)}.{LEAVES[leaf]}"


def _from_torch(value: np.ndarray) -> np.ndarray:
    """[out, in, height, width] to [height, width, in, out], and [out, in] to [in, out]."""
    return value.transpose({4: (2, 3, 1, 0), 2: (1, 0)}.get(value.ndim, range(value.ndim)))


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return _to_torch(np.empty(shape, np.bool_)).shape


def _to_torch(value: np.ndarray) -> np.ndarray:
    axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(value.ndim, range(value.ndim))
    return np.ascontiguousarray(value.transpose(axes))
