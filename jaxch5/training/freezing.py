"""Freezes groups of layers, and adapts the network, the optimizer and the steps accordingly."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import optax
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh
from jaxtyping import PyTree

from jaxch5.data.block import Data
from jaxch5.errors import ConfigError
from jaxch5.framing import Size
from jaxch5.models.spec import BODY_AND_HEAD, ModelSpec, Normalization
from jaxch5.optim.groups import (
    LAYER_DECAY,
    Groups,
    ParamPath,
    frozen_paths,
    group_rates,
    groups_of,
    labels,
)
from jaxch5.training.kept import kept_shapes
from jaxch5.training.plan import check_sizes
from jaxch5.training.recipe import Recipe
from jaxch5.training.state import TrainState, with_fresh_optimizer
from jaxch5.training.step import EvalStep, TrainStep, make_eval_step, make_train_step
from jaxch5.view import WHOLE, View

# Collections of variables that a step passes to the network, and one that Flax can do without.
TRAINED, UNUSED = ("params", "batch_stats"), ("perturbations",)


def layer_groups(name: str, spec: ModelSpec, modules: Collection[str]) -> Groups:
    """Returns the groups into which a network's layers are divided.

    Args:
        name: "fastai" (three groups for a ResNet) or "stages" (one for each stage). A network
            without a `ModelSpec` has one group for its module `head`, if any, and one for the rest.
        spec: Architecture of the network.
        modules: Names of the network's top-level modules.

    Raises:
        ConfigError: The name is unknown, or the modules do not match the stages.

    Example:
        >>> from jaxch5.models.registry import spec_of
        >>> resnet = spec_of("resnet18")
        >>> layer_groups("fastai", resnet, [*resnet.stages, "conv1", "layer1_0"]).names
        ('stem to layer2', 'layer3 and layer4', 'head')
    """
    sizes = spec.group_sizes(name)
    found = {spec.stage(module) for module in modules}
    if strange := found - {*spec.stages}:
        raise ConfigError(
            f"{spec.name}: stage_of returns {min(strange)}, which is not one of its stages: "
            f"{', '.join(spec.stages)}"
        )
    if missing := [stage for stage in spec.stages if stage not in found]:
        if spec.stages == BODY_AND_HEAD:
            return Groups(("all",), lambda module: 0, (2,))
        raise ConfigError(
            f"{spec.name}: none of its modules ({', '.join(modules)}) belongs to stage {missing[0]}"
        )
    return groups_of(spec.stages, spec.stage, sizes)


def shapes_of(model: nn.Module, size: Size, sizes: Sequence[Size] = ()) -> tuple[PyTree, PyTree]:
    """Returns the shapes of a network's outputs, and of its variables; see `kept_shapes`.

    Args:
        model: Module that is called on pictures.
        size: Side of the pictures, or their height and width, in pixels.
        sizes: Sizes for progressive resizing, all of which have to give the same shapes.

    Raises:
        ConfigError: The shapes differ, the sizes do not rise to `size`, or the network keeps
            variables that are neither parameters nor running statistics.
    """

    def at(size: Size) -> tuple[PyTree, PyTree]:
        outputs, shapes = kept_shapes(model, size)
        if others := shapes.keys() - {*TRAINED, *UNUSED}:
            name = getattr(model, "arch", type(model).__name__)
            raise ConfigError(
                f"{name} keeps variables in {', '.join(sorted(others))}: training keeps only "
                f"{' and '.join(TRAINED)}; keep them in batch_stats, or leave them out"
            )
        kept = {kind: shapes[kind] for kind in shapes if kind in TRAINED}
        return outputs, {"params": {}} | kept

    check_sizes(sizes, size)
    outputs, shapes = at(size)
    if any(at(other)[1] != shapes for other in sizes):
        raise ConfigError("fit.sizes: the weights of this network fit only one size; leave it out")
    return outputs, shapes


class Frozen:
    """Holds a network whose first groups of layers are frozen, and makes its steps.

    Args:
        model: Linen module.
        variables: Variables of the model, or their shapes.
        spec: Architecture of the model.
        groups: Groups of the model's layers.
        frozen_to: Index of the first group that is not frozen; a negative index counts from the
            end.
        recipe: Recipe with which the model is trained.

    Raises:
        ConfigError: There is no such group, no parameter would be trained, or the architecture
            requires `train_bn`.
    """

    def __init__(
        self,
        model: nn.Module,
        variables: PyTree,
        spec: ModelSpec,
        groups: Groups,
        frozen_to: int,
        recipe: Recipe,
    ) -> None:
        count = len(groups.names)
        if not -count <= frozen_to < count:
            raise ConfigError(
                f"freeze_to = {frozen_to}: there is no such group; the groups are "
                f"{', '.join(groups.names)}"
            )
        self.count, self.frozen_to = count, frozen_to % count
        self.recipe = recipe
        self.paths: frozenset[ParamPath] = frozen_paths(
            variables, groups, self.frozen_to, recipe.train_bn
        )
        self.optimizer: optax.GradientTransformation = recipe.make_optimizer(
            [0.0] * count, labels=partial(labels, groups=groups), no_decay=spec.no_decay
        )
        if len(self.paths) == len(flatten_dict(variables["params"])):
            raise ConfigError(
                f"freeze_to = {frozen_to} leaves {type(model).__name__} no parameters to train"
            )
        self.model = self.whole = model
        of_norms = map(groups.of, variables.get("batch_stats", ()))
        if not recipe.train_bn and any(group < self.frozen_to for group in of_norms):
            if spec.frozen is None:
                raise ConfigError(
                    f"model.train_bn = false: the ModelSpec of {spec.name} has no `frozen` to "
                    "make frozen stages keep their running statistics"
                )
            self.model = spec.frozen(model, sum(groups.sizes[: self.frozen_to]))

    def idle(self, asked: int) -> str | None:
        """Returns a line if `asked` counts from the end, but the only group is the last one."""
        if self.count > 1 or asked >= 0:
            return None
        name = getattr(self.whole, "arch", type(self.whole).__name__)
        return (
            f"the layers of {name} form one group, so none of them is frozen: name the last layer "
            "(and no other) head, or describe the stages in a ModelSpec"
        )

    def fresh(self, state: TrainState) -> TrainState:
        """Returns the state with a fresh optimizer state for the parameters that are trained."""
        return with_fresh_optimizer(state, self.optimizer, self.paths)

    def steps(
        self,
        data: Data,
        normalization: Normalization,
        mesh: Mesh | None = None,
        view: View = WHOLE,
        size: Size | None = None,
    ) -> tuple[TrainStep, EvalStep]:
        """Returns the training step and the evaluation step for `data`, not yet compiled.

        If `size` is given, the training step augments pictures to that size instead of the size of
        `data`.
        """
        train_step = make_train_step(
            self.model,
            self.recipe,
            data.augment,
            size or data.size,
            normalization,
            self.optimizer,
            self.paths,
            mesh,
            len(data.train),
        )
        return train_step, make_eval_step(self.whole, data.size, normalization, mesh, view)


def summarize_model(
    params: PyTree,
    groups: Groups,
    frozen: frozenset[ParamPath],
    layer_decay: float = LAYER_DECAY,
) -> Iterator[str]:
    """Yields lines about a network's groups: parameter counts, and the rates if they differ."""
    rows: list[Any] = []
    flat = flatten_dict(params)
    for number, name in enumerate(groups.names):
        of_group = {path: leaf for path, leaf in flat.items() if groups.of(path[0]) == number}
        trained = sum(leaf.size for path, leaf in of_group.items() if path not in frozen)
        rows.append((name, sum(leaf.size for leaf in of_group.values()), trained))
    rows.append(("total", *(sum(column) for column in list(zip(*rows, strict=True))[1:])))
    width = max(len(row[0]) for row in rows)
    yield f"{'group':<{width}}  {'parameters':>12}  {'trained':>12}"
    for name, count, trained in rows:
        yield f"{name:<{width}}  {count:>12,}  {trained:>12,}"
    if layer_decay != 1:
        yield describe_rates(groups, layer_decay)


def describe_rates(groups: Groups, layer_decay: float) -> str:
    """Describes the groups' shares of the learning rate, according to `group_rates`.

    Example:
        >>> describe_rates(Groups(("stem", "blocks", "head"), len), 0.75)
        'rates: head 1, blocks 0.75, stem 0.5625 of the learning rate (layer decay 0.75)'
    """
    shares = group_rates(1.0, len(groups.names), layer_decay)
    named = zip(reversed(groups.names), reversed(shares), strict=True)
    listed = ", ".join(f"{name} {share:.4g}" for name, share in named)
    return f"rates: {listed} of the learning rate (layer decay {layer_decay:g})"
