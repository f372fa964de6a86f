"""Converts weights to and from other libraries' names and layouts; see `Names` in `spec`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PyTree

from jaxch5.errors import WeightsError
from jaxch5.models.convert import (
    MARK,
    Entry,
    Found,
    architecture_of,
    entries_of,
    find_network,
    foreign,
    heads_of,
    names_of,
    parts_of,
    rename,
)
from jaxch5.models.reader import as_floats, refuse_not_finite
from jaxch5.models.registry import spec_of
from jaxch5.models.spec import HEAD, ModelSpec, VariablePath
from jaxch5.util.text import counted

# PyTorch's batch norm counts batches in this entry, and reads the count only if momentum is None.
COUNTER = "num_batches_tracked"


def import_state_dict(state_dict: Mapping[str, Any], arch: str | ModelSpec) -> dict[str, PyTree]:
    """Returns a network's variables from a state dict of torchvision, timm or fastai.

    Wrappers' prefixes (`module.`, `_orig_mod.`, `backbone.`) are allowed. In a ResNet, a head under
    `head.` whose layers are numbered as in fastai's `create_head` becomes a `concat_pool` head.

    Args:
        state_dict: Array-likes, keyed by PyTorch's names, in PyTorch's layouts: convolutions are
            [out, in, height, width], and linear layers are [out, in].
        arch: Name of an architecture, or a `ModelSpec`.

    Returns:
        `{"params": ..., "batch_stats": ...}` in float32, without `head` if the state dict has none.
        Numbers that are float32 in the state dict are unchanged.

    Raises:
        WeightsError: An entry is missing, has a wrong shape, holds anything but finite floats, or
            does not belong to `arch`.

    Example:
        >>> from functools import partial
        >>> from jaxch5.models.registry import create_model
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
    _refuse(spec_of(arch), "is not part of it", left_out)
    return variables


def import_network(
    found: Found, arch: str | ModelSpec, head: str = ""
) -> tuple[dict[str, PyTree], list[str]]:
    """Returns the variables of a network found in a file; see `import_state_dict`.

    Args:
        found: What `find_network` returns.
        arch: Architecture that the network should have.
        head: The most likely kind of head; see `heads_of`.

    Returns:
        The variables, and the names of entries that belong to neither the body nor a known head,
        such as those of a projection head.

    Raises:
        WeightsError: As in `import_state_dict`.
    """
    spec = spec_of(arch)
    entries = {name: value for name, value in found.entries.items() if not name.endswith(COUNTER)}
    if spec.recognizes and not spec.recognizes(entries) and (holds := architecture_of(entries)):
        raise WeightsError(f"weights of {spec.name}: these are weights of {holds}")
    for kind in heads_of(spec, head):
        body, heads = parts_of(entries_of(spec, kind))
        if _has_head(heads, entries):
            break
    else:
        heads = []
    wanted = _counted(body + heads, entries)
    others = sorted(entries.keys() - {entry.name for entry in wanted})
    spelled, read = found.spelled, names_of(spec).read
    missing = [entry.name for entry in wanted if entry.name not in entries]
    _refuse(spec, "is missing", [spelled(name) for name in missing])
    _refuse(spec, "is not part of it", [spelled(name) for name in foreign(body, others)])
    tensors, misshapen = {}, []
    for path, name, shape in wanted:
        if not _fits(spec, path, has := tuple(entries[name].shape), shape):
            misshapen.append(f"{spelled(name)} has shape {has} instead of {shape}")
        else:
            tensors[path] = as_floats(entries[name], spelled(name))
    _refuse(spec, "", misshapen)
    refuse_not_finite({spelled(entry.name): tensors[entry.path] for entry in wanted})
    tree = {path: jnp.asarray(read(path, value)) for path, value in tensors.items()}
    return unflatten_dict(tree), [spelled(name) for name in others]


def export_state_dict(
    variables: Mapping[str, PyTree],
    arch: str | ModelSpec,
    library: str = "",
    head: str = "",
    counters: Mapping[str, Any] = {},
) -> dict[str, np.ndarray]:
    """Returns a state dict with PyTorch's names and layouts; see `import_state_dict`.

    With a linear head, torchvision's and timm's ResNets load the result with `strict=True`. With a
    `concat_pool` head, load the entries whose names begin with `head.`, without this prefix, into
    fastai's `create_head`, and the other entries into the body of such a ResNet.

    Args:
        variables: `{"params": ..., "batch_stats": ...}`, possibly without a head.
        arch: Name of an architecture, or a `ModelSpec`.
        library: Which of `Names.others` to use, such as "fastai" (the names in models
            from its `vision_learner`); "" uses none.
        head: The most likely kind of head, which is tried first.
        counters: State dict from which the counters `num_batches_tracked` are taken, such as the
            one that was imported; a counter that it lacks is 0. jaxch5 does not count batches.

    Raises:
        WeightsError: The variables are not those of `arch`, or `counters` holds no such network.

    Example:
        >>> from functools import partial
        >>> from jaxch5.models.registry import create_model
        >>> init = partial(create_model("resnet18", num_classes=3).init, train=False)
        >>> shapes = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
        >>> variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
        >>> export_state_dict(variables, "resnet18")["fc.weight"].shape
        (3, 512)
    """
    spec = spec_of(arch)
    names, dotted = names_of(spec), ".".join
    flat = flatten_dict(jax.device_get(dict(variables)))
    renamed = names.others[library] if library else {}
    given = {path: names.written(path, np.asarray(value)) for path, value in flat.items()}
    # Finds out which of the possible heads the variables have, if they have one.
    headless = HEAD not in variables.get("params", {})
    for kind in heads_of(spec, head):
        expected = entries_of(spec, kind)
        if headless:
            expected = tuple(parts_of(expected)[0])
        if {entry.path for entry in expected} == flat.keys():
            break
    wanted = _counted(expected, {entry.name: given.get(entry.path) for entry in expected})
    paths = {entry.path for entry in wanted}
    _refuse(spec, "is missing", [dotted(e.path) for e in wanted if e.path not in flat])
    _refuse(spec, "is not part of it", [dotted(path) for path in flat if path not in paths])
    counted, written = (
        dict(counters),
        {rename(entry.name.replace("running_var", COUNTER), renamed) for entry in wanted},
    )
    if counters and not counters.keys() & written:
        # The state dict may have prefixes, or the names of another library.
        found = find_network(counters, spec, head=head).entries
        counted = {rename(name, renamed): value for name, value in found.items()}
    state_dict = {}
    for path, name, shape in wanted:
        if not _fits(spec, path, given[path].shape, shape):
            raise WeightsError(
                f"weights of {spec.name}: {name} has shape {given[path].shape} instead of {shape}"
            )
        state_dict[rename(name, renamed)] = np.asarray(given[path], order="C")
        if name.endswith("running_var"):
            counter = rename(name.replace("running_var", COUNTER), renamed)
            state_dict[counter] = np.asarray(counted.get(counter, 0), np.int64)
    return state_dict


def _has_head(heads: list[Entry], entries: Mapping[str, Any]) -> bool:
    """Checks whether a state dict has a head, even if some of the head's tensors are missing.

    At least half of the head's tensors must be there, and at least half of those must have the
    usual widths. A layer norm alone, as timm writes for a network without classes, is not a head.
    """
    here = [entry for entry in heads if entry.name in entries]

    def is_wide(entry: Entry) -> bool:
        shape = np.shape(entries[entry.name])
        pairs = zip(shape, entry.shape, strict=False)
        return len(shape) == len(entry.shape) and all(b in (a, MARK) for a, b in pairs)

    of_classes = any(MARK in entry.shape for entry in here) or 2 * len(here) > len(heads)
    return (
        of_classes and 2 * len(here) >= len(heads) > 0 and 2 * sum(map(is_wide, here)) >= len(here)
    )


def _counted(entries: Iterable[Entry], tensors: Mapping[str, Any]) -> list[Entry]:
    """Returns entries with `MARK` replaced by the tensors' number of classes, or 1 if unknown."""
    of_classes = (e for e in entries if MARK in e.shape and tensors.get(e.name) is not None)
    count = 1
    if (first := next(of_classes, None)) is not None:
        shape, axis = np.shape(tensors[first.name]), first.shape.index(MARK)
        count = shape[axis] if axis < len(shape) else 1

    def shape_of(entry: Entry) -> tuple[int, ...]:
        return tuple(count if length == MARK else length for length in entry.shape)

    return [entry._replace(shape=shape_of(entry)) for entry in entries]


def _fits(
    spec: ModelSpec, path: VariablePath, has: tuple[int, ...], shape: tuple[int, ...]
) -> bool:
    if path[-1] in spec.resample:
        return len(has) == len(shape) and (has[0], has[-1]) == (shape[0], shape[-1])
    return has == shape


def _refuse(spec: ModelSpec, what: str, names: list[str]) -> None:
    if names:
        # The first name is enough for a message. If there are several, the file is incomplete, or
        # holds another kind of network.
        kind = f"the file is incomplete, or holds another kind of {spec.family or 'network'}"
        others = f" (and {counted(len(names) - 1, 'other')}: {kind})" if len(names) > 1 else ""
        raise WeightsError(f"weights of {spec.name}: {f'{names[0]} {what}'.rstrip()}{others}")
