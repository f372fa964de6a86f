"""Groups of layers, earliest first, which can be frozen or have learning rates of their own.

Source: discriminative learning rates and gradual unfreezing, Howard and Ruder, 1801.06146. The
choice of groups that is called `fastai` is that of fastai's `vision_learner`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import NamedTuple

from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PyTree

# A parameter's path in the tree: a key of the dictionary that `flatten_dict` returns.
ParamPath = tuple[str, ...]


class Groups(NamedTuple):
    """Holds groups of layers; each group consists of one or more consecutive stages of a network.

    Attributes:
        names: Names of the groups.
        of: Function that takes the name of a top-level module and returns its group's index.
        sizes: Number of stages in each group.
    """

    names: tuple[str, ...]
    of: Callable[[str], int]
    sizes: tuple[int, ...] = ()


def groups_of(
    stages: Sequence[str], stage_of: Callable[[str], str], sizes: Sequence[int]
) -> Groups:
    """Divides the stages of a network into groups.

    Args:
        stages: Names of the stages, earliest first.
        stage_of: Function that takes the name of a top-level module and returns its stage's name.
        sizes: Number of stages in each group.

    Example:
        >>> groups = groups_of(("a", "b", "c", "d", "e", "f"), lambda module: module[0], (3, 2, 1))
        >>> groups.names, groups.of("d_1")
        (('a to c', 'd and e', 'f'), 1)
    """
    left = iter(stages)
    parts = [list(islice(left, size)) for size in sizes]
    number = {stage: group for group, part in enumerate(parts) for stage in part}
    return Groups(
        tuple(f"{part[0]} to {part[-1]}" if part[2:] else " and ".join(part) for part in parts),
        lambda module: number[stage_of(module)],
        tuple(sizes),
    )


def labels(params: PyTree, groups: Groups) -> PyTree:
    """Returns the index of each parameter's group, as labels for `optax.multi_transform`.

    Example:
        >>> groups = Groups(("body", "head"), lambda module: int(module == "head"))
        >>> labels({"conv1": {"kernel": 0}, "head": {"bias": 0}}, groups)
        {'conv1': {'kernel': 0}, 'head': {'bias': 1}}
    """
    return unflatten_dict({path: groups.of(path[0]) for path in flatten_dict(params)})


def frozen_paths(
    variables: PyTree, groups: Groups, frozen_to: int, train_bn: bool = True
) -> frozenset[ParamPath]:
    """Returns the paths of the parameters that are not trained.

    Args:
        variables: The network's `params`, and its running statistics in `batch_stats`, which show
            which modules are batch norms. Norms of other kinds have no running statistics, and are
            frozen with the layers around them.
        groups: Groups of the network's layers.
        frozen_to: Index of the first group that is not frozen; 0 freezes none.
        train_bn: Whether batch norms in frozen groups are trained nevertheless, as in fastai.

    Example:
        >>> params = {"bn1": {"scale": 0, "bias": 0}, "conv1": {"kernel": 0}, "head": {"bias": 0}}
        >>> variables = {"params": params, "batch_stats": {"bn1": {"mean": 0, "var": 1}}}
        >>> groups = Groups(("body", "head"), lambda module: int(module == "head"))
        >>> sorted(frozen_paths(variables, groups, 1))
        [('conv1', 'kernel')]
        >>> len(frozen_paths(variables, groups, 1, train_bn=False))
        3
    """
    batch_norms = {path[:-1] for path in flatten_dict(variables.get("batch_stats", {}))}
    return frozenset(
        path
        for path in flatten_dict(variables["params"])
        if groups.of(path[0]) < frozen_to and not (train_bn and path[:-1] in batch_norms)
    )


def partition(params: PyTree, frozen: frozenset[ParamPath]) -> tuple[PyTree, PyTree]:
    """Splits parameters into a tree of trained and a tree of frozen ones; `merge` joins them again.

    Example:
        >>> partition({"a": {"w": 1}, "b": {"w": 2}}, frozenset({("a", "w")}))
        ({'b': {'w': 2}}, {'a': {'w': 1}})
    """
    flat = flatten_dict(params)
    trained = {path: leaf for path, leaf in flat.items() if path not in frozen}
    return unflatten_dict(trained), unflatten_dict({path: flat[path] for path in frozen})


def merge(trained: PyTree, frozen: PyTree) -> PyTree:
    """Joins a tree of trained and a tree of frozen parameters, as `partition` returns them.

    Example:
        >>> merge({"a": {"w": 1}}, {"b": {"w": 2}})
        {'a': {'w': 1}, 'b': {'w': 2}}
    """
    return unflatten_dict({**flatten_dict(trained), **flatten_dict(frozen)})
