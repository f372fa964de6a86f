"""Groups of layers, earliest first: what is frozen, and which rate each trains with.

Source: discriminative learning rates and gradual unfreezing, Howard and Ruder, 1801.06146; the
groups `fastai` are those of fastai's `vision_learner`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PyTree

from jaxch5.errors import ConfigError

# A parameter's way through the tree, as `flatten_dict` has it.
ParamPath = tuple[str, ...]
STAGES = ("stem", "layer1", "layer2", "layer3", "layer4", "head")


class Groups(NamedTuple):
    """Names of the groups, and the number of the group that a top-level module belongs to."""

    names: tuple[str, ...]
    of: Callable[[str], int]


def stage_of(module: str) -> int:
    """The number in `STAGES` of a top-level module of a ResNet.

    Example:
        >>> [stage_of(module) for module in ("conv1", "layer3_5", "head")]
        [0, 3, 5]
    """
    name = module.split("_")[0]
    return STAGES.index(name) if name in STAGES else 0


GROUPS = {
    "fastai": Groups(
        ("stem to layer2", "layer3 and layer4", "head"), lambda m: (0, 0, 0, 1, 1, 2)[stage_of(m)]
    ),
    "stages": Groups(STAGES, stage_of),
}


def groups_of(name: str, params: PyTree) -> Groups:
    """The groups of a network's parameters.

    Args:
        name: "fastai" (three) or "stages" (six) for a ResNet; any other network has its body and
            its head, where one of its modules is called `head`, else one group.
        params: of the network.

    Raises:
        ConfigError: there is no such name.
    """
    if name not in GROUPS:
        raise ConfigError(f"model.groups = {name}: should be one of {', '.join(GROUPS)}")
    if "layer4_0" in params:
        return GROUPS[name]
    if "head" in params and len(params) > 1:
        return Groups(("body", "head"), lambda module: int(module == "head"))
    return Groups(("all",), lambda module: 0)


def labels(params: PyTree, groups: Groups) -> PyTree:
    """Of each parameter, the number of its group: what `optax.multi_transform` takes.

    Example:
        >>> labels({"conv1": {"kernel": 0}, "head": {"bias": 0}}, GROUPS["fastai"])
        {'conv1': {'kernel': 0}, 'head': {'bias': 2}}
    """
    return unflatten_dict({path: groups.of(path[0]) for path in flatten_dict(params)})


def frozen_paths(
    variables: PyTree, groups: Groups, frozen_to: int, train_bn: bool = True
) -> frozenset[ParamPath]:
    """The parameters that are not trained.

    Args:
        variables: the network's `params`, and the running statistics in `batch_stats`, by which a
            batch norm is known. Other norms have none, and are as frozen as what is around them.
        groups: of its layers.
        frozen_to: the groups before this one are frozen; 0 freezes none.
        train_bn: batch norms in frozen groups are trained all the same, as fastai does.

    Example:
        >>> params = {"bn1": {"scale": 0, "bias": 0}, "conv1": {"kernel": 0}, "head": {"bias": 0}}
        >>> variables = {"params": params, "batch_stats": {"bn1": {"mean": 0, "var": 1}}}
        >>> sorted(frozen_paths(variables, GROUPS["fastai"], 2))
        [('conv1', 'kernel')]
        >>> len(frozen_paths(variables, GROUPS["fastai"], 2, train_bn=False))
        3
    """
    batch_norms = {path[:-1] for path in flatten_dict(variables.get("batch_stats", {}))}
    return frozenset(
        path
        for path in flatten_dict(variables["params"])
        if groups.of(path[0]) < frozen_to and not (train_bn and path[:-1] in batch_norms)
    )


def partition(params: PyTree, frozen: frozenset[ParamPath]) -> tuple[PyTree, PyTree]:
    """The trained parameters and the frozen ones, each a tree of its own; `merge` is the way back.

    Example:
        >>> partition({"a": {"w": 1}, "b": {"w": 2}}, frozenset({("a", "w")}))
        ({'b': {'w': 2}}, {'a': {'w': 1}})
    """
    flat = flatten_dict(params)
    trained = {path: leaf for path, leaf in flat.items() if path not in frozen}
    return unflatten_dict(trained), unflatten_dict({path: flat[path] for path in frozen})


def merge(trained: PyTree, frozen: PyTree) -> PyTree:
    """One tree of the two that `partition` gives.

    Example:
        >>> merge({"a": {"w": 1}}, {"b": {"w": 2}})
        {'a': {'w': 1}, 'b': {'w': 2}}
    """
    return unflatten_dict({**flatten_dict(trained), **flatten_dict(frozen)})
