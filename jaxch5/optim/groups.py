"""Groups of layers, earliest first, which can be frozen or have learning rates of their own.

Source: discriminative learning rates and gradual unfreezing, Howard and Ruder, 1801.06146. The
choice of groups that is called `fastai` is that of fastai's `vision_learner`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, NamedTuple

from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PyTree

from jaxch5.errors import ConfigError
from jaxch5.util.limits import check_numbers, is_one_number

LAYER_DECAY = 1.0
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


def even_mults(start: float, stop: float, n: int) -> list[float]:
    """Returns `n` rates from `start` to `stop` in a geometric series; the name is fastai's.

    Args:
        start, stop: First and last rate, both above 0.
        n: Number of rates, at least 1; a single rate is `stop`.

    Example:
        >>> [round(rate, 6) for rate in even_mults(1e-4, 1e-2, 3)]
        [0.0001, 0.001, 0.01]
    """
    if n == 1:
        return [stop]
    factor = (stop / start) ** (1 / (n - 1))
    return [start * factor**place for place in range(n)]


def check_rate(**rate: Any) -> None:
    """Refuses a learning rate that is not one number, or is out of range.

    Args:
        rate: The rate, keyed by the name that it has in `LIMITS`.

    Raises:
        ConfigError: The rate is not one number, such as a slice or a list, or is out of range.

    Example:
        >>> check_rate(lr_max=[1e-4, 1e-3])
        Traceback (most recent call last):
        jaxch5.errors.ConfigError: lr_max = [0.0001, 0.001]: in Python this should be one rate, \
such as lr_find().valley
    """
    for name, value in rate.items():
        if not is_one_number(value):
            wanted = "in Python this should be one rate, such as lr_find().valley"
            raise ConfigError(f"{name} = {value}: {wanted}")
    check_numbers(**rate)


def group_rates(lr: float | slice, groups: int, layer_decay: float = LAYER_DECAY) -> list[float]:
    """Returns a rate for each group of layers, earliest first; a slice means the same as in fastai.

    Args:
        lr: A float is the rate of all groups; `slice(hi)` means `hi` for the last group and `hi`
            divided by 10 for the others; `slice(lo, hi)` means rates from `lo` to `hi` that are
            spaced geometrically (`even_mults`).
        groups: Number of groups.
        layer_decay: Factor by which the rate of each group is multiplied to get the rate of the
            group before it: group `g`, counted from 0, has the rate
            `lr * layer_decay ** (groups - 1 - g)` (Clark et al., 2003.10555; Bao et al.,
            2106.08254). With a slice or a single group, it must be 1.

    Raises:
        ConfigError: A rate is missing, is not a number or is out of range, `layer_decay` is out of
            range, or it is not 1 although it must be.

    Example:
        >>> group_rates(slice(1e-3), 3)
        [0.0001, 0.0001, 0.001]
        >>> group_rates(1e-3, 3, layer_decay=0.5)
        [0.00025, 0.0005, 0.001]
    """
    check_numbers(layer_decay=layer_decay)
    if layer_decay != 1 and (groups == 1 or isinstance(lr, slice)):
        why = f"a single rate, not {lr}" if groups > 1 else "several groups of layers, not one"
        raise ConfigError(f"fit.layer_decay = {layer_decay:g}: only works with {why}")
    if not isinstance(lr, slice):
        if not is_one_number(lr):
            raise ConfigError(
                f"lr = {lr}: in Python this should be a rate, such as lr_find().valley, or a slice "
                "of two rates"
            )
        rates = [lr * layer_decay ** (groups - 1 - group) for group in range(groups)]
    elif lr.stop is None or lr.step is not None:
        raise ConfigError(f"lr = {lr}: should be slice(last) or slice(first, last)")
    else:
        check_rate(lr=lr.stop)
        if lr.start is None:
            rates = [lr.stop / 10] * (groups - 1) + [lr.stop]
        else:
            check_rate(lr=lr.start)
            rates = even_mults(lr.start, lr.stop, groups)
    for rate in rates:
        check_numbers(lr=rate)
    return rates
