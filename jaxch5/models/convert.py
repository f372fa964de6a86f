"""Finding a network in what other libraries write: wrappers, prefixes, and numbers for names.

A file may hold a state dict within others (`state_dict`, `model`, `student`), several of them
(an average beside the weights), and names that a wrapper has lengthened (`module.`, `_orig_mod.`,
`module.encoder_q.`). Wherever it is, a ResNet is known by the names of its blocks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxch5.errors import WeightsError
from jaxch5.models.resnet import ARCHITECTURES, BasicBlock, Bottleneck
from jaxch5.text import counted

# The names of a block's convolutions, after what leads to the network: by torchvision's names, and
# by the numbers of its layers in `torch.nn.Sequential(*resnet.children())`, as fastai has it.
NAMED = re.compile(r"(.*\.)?layer[1-4]\.\d+\.conv[123]\.weight")
NUMBERED = re.compile(r"(.*\.)?[4-7]\.\d+\.conv[123]\.weight")
NUMBERS = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
NAMES = {number: name for name, number in NUMBERS.items()}
# Where several parts of a file hold the network, the first of these is taken.
FIRST = ("", "state_dict", "model", "teacher")

DEEPEST = 10

# Signs of networks that are none of ours, for the message.
STRANGERS = {
    r"embedder\.convolution": "a ResNet by the names of transformers; timm and torchvision have "
    "the same weights by the names that are known here",
    r"\.stem\.conv1|res2\.0": "a ResNet by the names of detectron2",
    r"attn|attention|cls_token": "a transformer",
    r"denseblock": "a DenseNet",
    r"(^|\.)stages\.\d": "a network with stages that is no ResNet, such as ConvNeXt",
    r"(^|\.)(features|blocks)\.\d": "a network that is no ResNet, such as VGG or EfficientNet",
}


class Found(NamedTuple):
    """The state dict of a network within a file.

    Attributes:
        entries: its tensors by torchvision's names; a head of fastai's begins with `head.`.
        part: where it is in the file, as a dotted name; "" is the file itself.
        others: other parts of the file that hold a network.
        numbered: "" where layers have names in the file; "children" where they have numbers, and
            "fastai" where body and head have too.
    """

    entries: dict[str, Any]
    part: str
    others: tuple[str, ...] = ()
    numbered: str = ""

    def spelled(self, name: str) -> str:
        """Returns the file's own name of an entry.

        Example:
            >>> found = Found({}, "model", numbered="fastai")
            >>> found.spelled("layer1.0.bn1.bias"), found.spelled("head.8.weight")
            ('model.0.4.0.bn1.bias', 'model.1.8.weight')
        """
        first, _, rest = name.partition(".")
        if self.numbered and first in NUMBERS:
            name = f"{'0.' * (self.numbered == 'fastai')}{NUMBERS[first]}.{rest}"
        elif self.numbered == "fastai" and first == "head":
            name = f"1.{rest}"
        return f"{self.part}.{name}" if self.part else name


def find_network(tree: Mapping[Any, Any], arch: str, part: str = "") -> Found:
    """Returns the state dict of a ResNet, wherever it is in a file.

    Where several are, one of the architecture is preferred, then one of `FIRST`, then the first.

    Args:
        tree: a state dict, or dictionaries that hold some and anything else.
        arch: the architecture that is looked for.
        part: a part of the file's names that must lead to it, such as "state_dict_ema"; "" takes
            any.

    Raises:
        WeightsError: there is none, or none in this part.

    Example:
        >>> import numpy as np
        >>> block = {"module.layer1.0.conv1.weight": np.zeros((64, 64, 3, 3))}
        >>> found = find_network({"state_dict": block, "ema": block | {}, "epoch": 3}, "resnet18")
        >>> list(found.entries), found.part, found.others
        (['layer1.0.conv1.weight'], 'state_dict.module', ('ema.module',))
    """
    tensors = flatten(tree)
    if not tensors:
        raise WeightsError("holds no state dict")
    roots = _roots(tensors)
    if not roots:
        raise WeightsError(_stranger(list(tensors)))
    all_found = [_under(root, tensors, roots) for root in roots]
    chosen = [found for found in all_found if f".{part}." in f".{found.part}." or not part]
    parts = [found.part for found in all_found]
    if not chosen:
        there = " and ".join(f"#{name}" for name in parts if name) or "the file itself"
        raise WeightsError(f"#{part}: no such part holds a network; there is one in {there}")

    def order(found: Found) -> tuple[bool, int]:
        first = found.part.partition(".")[0]
        fits = architecture_of(found.entries) == arch
        return not fits, FIRST.index(first) if first in FIRST else len(FIRST)

    best = min(chosen, key=order)
    return best._replace(others=tuple(name for name in parts if name != best.part))


def architecture_of(state_dict: Mapping[str, Any]) -> str | None:
    """Tells which ResNet's blocks a state dict of torchvision's names has; None for none.

    Example:
        >>> architecture_of({"fc.bias": 0})
    """
    names = {name.removeprefix("module.") for name in state_dict}
    depths = blocks_of(names)
    kind = Bottleneck if any(name.endswith(".conv3.weight") for name in names) else BasicBlock
    return next(
        (arch for arch, made_of in ARCHITECTURES.items() if made_of == (kind, depths)), None
    )


def blocks_of(names: set[str]) -> tuple[int, ...]:
    """Returns how many blocks each of the four stages has.

    Example:
        >>> blocks_of({"layer1.0.conv1.weight", "layer1.1.conv1.weight", "layer2.0.conv1.weight"})
        (2, 1, 0, 0)
    """
    blocks = {tuple(name.split(".")[:2]) for name in names}
    return tuple(sum(block[0] == f"layer{stage}" for block in blocks) for stage in (1, 2, 3, 4))


def flatten(tree: Mapping[Any, Any]) -> dict[str, Any]:
    """Returns the arrays of nested dictionaries by dotted names; each dictionary is entered once.

    Example:
        >>> import numpy as np
        >>> list(flatten({"model": {"fc.bias": np.zeros(2)}, "epoch": 3}))
        ['model.fc.bias']
    """
    found: dict[str, Any] = {}
    seen: set[int] = set()

    def enter(tree: Mapping[Any, Any], prefix: str, depth: int) -> None:
        # Whoever wrote the file chose how deep it is, and whether it is in itself.
        if id(tree) in seen or depth > DEEPEST:
            return
        seen.add(id(tree))
        for name, value in tree.items():
            if not isinstance(name, str):
                continue
            if isinstance(value, Mapping):
                enter(value, f"{prefix}{name}.", depth + 1)
            elif hasattr(value, "shape") and hasattr(value, "dtype"):
                found[prefix + name] = value

    enter(tree, "", 0)
    return found


def _roots(names: Mapping[str, Any]) -> dict[str, str]:
    """Returns what leads to each network, and how its layers are numbered."""
    roots: dict[str, str] = {}
    for name in names:
        if match := NAMED.fullmatch(name):
            roots[match[1] or ""] = ""
        elif match := NUMBERED.fullmatch(name):
            before = match[1] or ""
            # fastai's networks are a body, 0, and a head, 1.
            if before == "0." or before.endswith(".0."):
                roots.setdefault(before[:-2], "fastai")
            else:
                roots.setdefault(before, "children")
    return roots


def _under(root: str, tensors: Mapping[str, Any], roots: Mapping[str, str]) -> Found:
    inner = tuple(other for other in roots if other != root and other.startswith(root))
    entries = {
        _named(name[len(root) :], roots[root]): value
        for name, value in tensors.items()
        if name.startswith(root) and not (inner and name.startswith(inner))
    }
    return Found(entries, root.removesuffix("."), (), roots[root])


def _named(name: str, numbered: str) -> str:
    """Returns torchvision's name of an entry.

    Example:
        >>> _named("0.4.1.bn2.bias", "fastai"), _named("1.8.weight", "fastai")
        ('layer1.1.bn2.bias', 'head.8.weight')
        >>> _named("0.weight", "children"), _named("fc.bias", "")
        ('conv1.weight', 'fc.bias')
    """
    if numbered == "fastai":
        if name.startswith("1."):
            return f"head.{name[2:]}"
        if not name.startswith("0."):
            return name
        name = name[2:]
    number, dot, rest = name.partition(".")
    return NAMES.get(number, number) + dot + rest if numbered else name


def _stranger(names: list[str]) -> str:
    """Says that names are those of no network known here, and whose they may be."""
    for sign, whose in STRANGERS.items():
        if any(re.search(sign, name) for name in names):
            return f"holds no ResNet of torchvision's names; it looks like {whose}"
    count = f", and {counted(len(names) - 1, 'other')}" if len(names) > 1 else ""
    return (
        f"holds no ResNet of torchvision's, timm's or fastai's names: it has {names[0]}{count}; "
        "it is cut short, or of another architecture"
    )
