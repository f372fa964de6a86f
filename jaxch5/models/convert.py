"""Finds a network in other libraries' files: within wrappers, behind prefixes, under other names.

A file may hold a state dict within other dictionaries (`state_dict`, `model`, `student`), or it may
hold several state dicts (averaged weights besides the usual ones). A wrapper may have added a
prefix to the names (`module.`, `_orig_mod.`, `module.encoder_q.`). Wherever a network is in a file,
it is recognized by the names of the variables in its body; see `jaxch5.models.spec.Names`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from jaxch5.errors import ConfigError, WeightsError
from jaxch5.models.reader import flatten
from jaxch5.models.registry import architectures, create_model, shapes_by_tracing, spec_of
from jaxch5.models.spec import HEAD, ModelSpec, Names, VariablePath
from jaxch5.util.text import counted

# If several parts of a file hold the network, the part that comes first in this list is taken.
FIRST = ("", "state_dict", "model", "teacher")
# A number of classes that is not the length of any other axis: if an axis has this length, it must
# be the axis of the classes.
MARK = 7919

# Patterns of names that reveal other kinds of networks, for error messages.
STRANGERS = {
    r"embedder\.convolution": "a ResNet with the names of the library transformers; timm and "
    "torchvision have the same weights with names that are known here",
    r"\.stem\.conv1|res2\.0": "a ResNet with the names of detectron2",
    r"attn|attention|cls_token": "a transformer of another kind",
    r"denseblock": "a DenseNet",
    r"\.dwconv\.": "a ConvNeXt with the names of its authors or of the library transformers; timm "
    "has the same weights with names that are known here",
    r"(^|\.)stages\.\d": "a network with stages, such as ConvNeXt",
    r"(^|\.)(features|blocks)\.\d": "a network other than a ResNet, such as VGG or EfficientNet",
}


class Entry(NamedTuple):
    """Holds a variable's path, and its name and shape in a state dict with `MARK` classes."""

    path: VariablePath
    name: str
    shape: tuple[int, ...]


class Found(NamedTuple):
    """Holds the state dict of a network that was found in a file.

    Attributes:
        entries: Tensors of the state dict, keyed by the architecture's names.
        part: Where the state dict is in the file, as a dotted name; "" means the file itself.
        others: Other parts of the file that hold a network.
        renamed: Beginnings of the architecture's names, each mapped to what the file has instead.
    """

    entries: dict[str, Any]
    part: str
    others: tuple[str, ...] = ()
    renamed: Mapping[str, str] = {}

    def spelled(self, name: str) -> str:
        """Returns the name that an entry has in the file.

        Example:
            >>> Found({}, "model", renamed={"layer1": "0.4"}).spelled("layer1.0.bn1.bias")
            'model.0.4.0.bn1.bias'
        """
        name = rename(name, self.renamed)
        return f"{self.part}.{name}" if self.part else name


def rename(name: str, beginnings: Mapping[str, str]) -> str:
    """Returns a dotted name with its beginning replaced, if there is a replacement.

    Example:
        >>> rename("layer1.0.bn1.bias", {"layer1": "0.4"}), rename("fc.bias", {"layer1": "0.4"})
        ('0.4.0.bn1.bias', 'fc.bias')
    """
    for old, new in beginnings.items():
        if name.startswith(f"{old}."):
            return f"{new}{name[len(old) :]}"
    return name


def find_network(
    tree: Mapping[Any, Any], arch: str | ModelSpec, part: str = "", head: str = ""
) -> Found:
    """Returns the state dict of a network, wherever it is in a file.

    If a file holds several state dicts, one that fits `arch` is preferred. If several fit, or none
    does, the one whose part comes first in `FIRST` is preferred.

    Args:
        tree: State dict, or dictionaries that hold state dicts among other things.
        arch: Architecture to look for.
        part: Name that the network's path must contain, such as "state_dict_ema"; "" accepts any
            path.
        head: Most likely kind of head; see `heads_of`.

    Raises:
        WeightsError: There is no network in the file, or none in this part.

    Example:
        >>> block = {"module.layer1.0.conv1.weight": np.zeros((64, 64, 3, 3))}
        >>> found = find_network({"state_dict": block, "ema": block | {}, "epoch": 3}, "resnet18")
        >>> list(found.entries), found.part, found.others
        (['layer1.0.conv1.weight'], 'state_dict.module', ('ema.module',))
    """
    tensors = flatten(tree)
    if not tensors:
        raise WeightsError("holds no state dict")
    spec = spec_of(arch)
    names, (body, _) = names_of(spec), parts_of(entries_of(spec, heads_of(spec, head)[0]))
    roots = _roots(tensors, names, {entry.name for entry in body})
    if not roots:
        raise WeightsError(_stranger(spec, names, tensors))
    all_found = [_under(root, tensors, roots) for root in roots]
    chosen = [found for found in all_found if f".{part}." in f".{found.part}." or not part]
    parts = [found.part for found in all_found]
    if not chosen:
        there = " and ".join(f"#{name}" for name in parts if name) or "the file itself"
        raise WeightsError(f"no part #{part} holds a network; there is one in {there}")

    def order(found: Found) -> tuple[bool, int]:
        first = found.part.partition(".")[0]
        fits = recognizes(spec, body, found.entries)
        return not fits, FIRST.index(first) if first in FIRST else len(FIRST)

    best = min(chosen, key=order)
    return best._replace(others=tuple(name for name in parts if name != best.part))


def recognizes(spec: ModelSpec, body: Collection[Entry], entries: Mapping[str, Any]) -> bool:
    """Checks whether a state dict belongs to an architecture, even if some entries are missing."""
    if spec.recognizes:
        return spec.recognizes(entries)
    known = {entry.name for entry in body}
    return 2 * len(known & entries.keys()) > len(known) and not foreign(
        body, entries.keys() - known
    )


def architecture_of(entries: Mapping[str, Any]) -> str | None:
    """Returns the name of the architecture that a state dict belongs to; None if unknown.

    Example:
        >>> architecture_of({"fc.bias": 0})
    """
    specs = map(spec_of, architectures())
    return next((spec.name for spec in specs if spec.recognizes and spec.recognizes(entries)), None)


def names_of(spec: ModelSpec) -> Names:
    """Returns the names of an architecture's variables in state dicts.

    Raises:
        ConfigError: The architecture has no such names.
    """
    if spec.names is None:
        raise ConfigError(
            f"{spec.name} is your own module, so its variables have no names in other libraries"
        )
    return spec.names


def heads_of(spec: ModelSpec, likely: str = "") -> list[str]:
    """Returns the heads that an architecture can have, the likely one first.

    Callers trace the network with each head in turn until one fits; each trace takes a second.
    """
    return sorted(spec.heads or ("",), key=lambda kind: kind != likely)


@lru_cache(maxsize=8)
def entries_of(spec: ModelSpec, head: str) -> tuple[Entry, ...]:
    """Returns the entries that a state dict of an architecture has.

    Args:
        spec: Architecture.
        head: One of the architecture's heads; "" if there is no choice.

    Raises:
        ConfigError: The variables have no names in state dicts, or two of them have the same name.
    """
    names = names_of(spec)
    _, variables = shapes_by_tracing(create_model(spec, MARK, head), (spec.size, spec.size))
    shapes = flatten_dict(dict(variables))

    def entry(path: VariablePath, like: jax.ShapeDtypeStruct) -> Entry:
        # A single number is broadcast, so that no memory is allocated for the array.
        empty = np.broadcast_to(np.zeros((), np.float32), like.shape)
        return Entry(path, names.of(path), names.written(path, empty).shape)

    entries = tuple(entry(path, like) for path, like in shapes.items())
    by_name: dict[str, VariablePath] = {}
    for path, name, _ in entries:
        if (other := by_name.setdefault(name, path)) != path:
            raise ConfigError(
                f"{spec.name}: {'.'.join(other)} and {'.'.join(path)} are both named {name}; give "
                "them different names in the ModelSpec"
            )
    return entries


def parts_of(entries: Collection[Entry]) -> tuple[list[Entry], list[Entry]]:
    """Returns the entries of a body and those of its head."""
    body = [entry for entry in entries if entry.path[1] != HEAD]
    return body, [entry for entry in entries if entry.path[1] == HEAD]


def classes_of_head(variables: Mapping[str, Any], spec: ModelSpec, likely: str = "") -> int | None:
    """Returns how many outputs a head has; None if there is no head."""
    flat = flatten_dict(variables)
    for kind in heads_of(spec, likely) if HEAD in variables["params"] else ():
        for entry in entries_of(spec, kind):
            if MARK in entry.shape and entry.path in flat:
                return int(flat[entry.path].shape[-1])
    return None


def foreign(body: Collection[Entry], names: Collection[str]) -> list[str]:
    """Returns the names that belong to one of the body's modules, or to no module at all."""
    own = {entry.name.partition(".")[0] for entry in body}
    return [name for name in names if name.partition(".")[0] in own or "." not in name]


def _roots(tensors: Collection[str], names: Names, body: set[str]) -> dict[str, Mapping[str, str]]:
    """Maps the prefix of each network to replacements for the beginnings of its layers' names."""
    # Names like `conv1.weight` are left out, since `layer1.0.conv1.weight` ends in the same way.
    tails = {name[at + 1 :] for name in body for at in range(len(name)) if name[at] == "."}
    anchors = body - tails
    spellings = [
        ({rename(name, by) for name in anchors}, by) for by in ({}, *names.others.values())
    ]
    roots: dict[str, Mapping[str, str]] = {}
    for name in tensors:
        starts = [0, *(at + 1 for at in range(len(name)) if name[at] == ".")]
        for spelled, by in spellings:
            start = next((at for at in starts if name[at:] in spelled), None)
            if start is not None:
                roots.setdefault(name[:start], by)
                break
    return roots


def _under(root: str, tensors: Mapping[str, Any], roots: Mapping[str, Mapping[str, str]]) -> Found:
    inner = tuple(other for other in roots if other != root and other.startswith(root))
    back = {there: here for here, there in roots[root].items()}
    entries = {
        rename(name[len(root) :], back): value
        for name, value in tensors.items()
        if name.startswith(root) and not (inner and name.startswith(inner))
    }
    return Found(entries, root.removesuffix("."), (), roots[root])


def _stranger(spec: ModelSpec, names: Names, tensors: Mapping[str, Any]) -> str:
    """Returns a message which says that the names are not this network's, and whose they may be."""
    if (holds := architecture_of(tensors)) not in (spec.name, None):
        return f"holds weights of {holds}, not of {spec.name} (--model.arch {holds})"
    kind = f"holds no {spec.family or spec.name}"
    for sign, whose in STRANGERS.items():
        if any(re.search(sign, name) for name in tensors):
            return f"{kind} with {names.whose} names; it looks like {whose}"
    first, *others = tensors
    count = f", and {counted(len(others), 'other')}" if others else ""
    return (
        f"{kind} with {names.whose} names: it has {first}{count}; it is incomplete, or of another "
        "architecture"
    )
