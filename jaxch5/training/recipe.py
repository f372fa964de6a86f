"""Defines the recipe: the choices about a network that stay fixed while it is trained."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache, partial
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from jaxch5.augmentation.mixing import Mixed
from jaxch5.data.sampler import is_unequal
from jaxch5.errors import ConfigError
from jaxch5.framing import Size
from jaxch5.losses import Loss
from jaxch5.metrics import Metric
from jaxch5.models.spec import ModelSpec
from jaxch5.optim.groups import LAYER_DECAY
from jaxch5.optim.optimizer import ACCUMULATE, CLIP, LR, OPTIMIZER, WD, accumulated, make_optimizer
from jaxch5.task import SOFTMAX, Task
from jaxch5.training.class_weights import ClassWeights, weights_of_classes
from jaxch5.training.precision import precision_of
from jaxch5.util.limits import LIMITS, check_numbers
from jaxch5.util.text import name_of, names_in_order

# The head of a network that offers several kinds, if the recipe names none.
KIND_OF_HEAD = "concat_pool"
# What batch norms take their statistics from: see `Recipe.bn`.
NORMS = ("global", "local")
# What Python takes where the command line takes a name.
OBJECTS = {
    "loss": "a function, as in loss=jx.focal_loss",
    "mix": "a function, as in mix=jx.mixup",
    "task": "a Task, as in task=jx.one_vs_rest()",
}
Mixer = Callable[[Float[Array, "batch height width 3"], Key[Array, ""]], Mixed]


@dataclass(frozen=True)
class Recipe:
    """Holds the choices about a network and its training that stay fixed during training.

    Args:
        precision: Type in which the network computes: "fp32", "bf16" or "fp16"; weights,
            statistics, loss and optimizer are float32. Your own module computes in the types that
            it was made with.
        head: "concat_pool" (fastai's), "linear" (torchvision's), "mean_pool" (for a ViT) or your
            own, if the architecture offers several; None is "concat_pool" or else the first.
        groups: Groups of layers for freezing and rates: "fastai" (three for a ResNet), "stages"
            (one for each stage), or "auto", which is "fastai" if `layer_decay` is 1, else "stages".
        train_bn: Whether batch norms of frozen groups are trained, as in fastai; if not, they use
            their running statistics, and a frozen body costs only a forward pass. Layers that
            normalize without running statistics are not batch norms.
        wd: Decoupled weight decay, 0 to 1, which is multiplied by the learning rate.
        loss: Function from logits [B, classes] and labels [B] to the mean loss: `cross_entropy`,
            `focal_loss`, or a `functools.partial` of one of them with class weights; or your own
            loss, which returns `ItemLosses` if it has weights. If None, the task's loss is used.
        metrics: Metrics to record in addition to the task's: names such as "top_5" or "f1", or
            functions of probabilities and labels; see `metric_of`.
        mix: Function that mixes each training batch: `mixup`, `cutmix`, or a `functools.partial` of
            one of them with another alpha.
        optimizer: "adam" (fastai's constants), "adamw", "lamb" or "sgd"; see `make_optimizer`.
        clip: Maximum norm of all gradients together; 0 does not clip.
        accumulate: Number of batches whose mean gradient makes one update; batches left over at the
            end of an epoch make one too. All batches count alike, whatever the weights of their
            items are.
        average: Decay, below 1, of an exponential average of the weights, which is then evaluated
            instead of the weights; 0 keeps no average.
        deterministic: Whether the same seed gives the same bits on a GPU too, which may be slower.
        devices: Number of devices of each process that share a batch; 0 uses all.
        bn: Whether batch norms take their statistics from the entire batch ("global"), on any
            number of devices, or from the rows of each device ("local").
        remat: Whether the activations within a block are computed again for the gradient instead of
            kept in memory.
        shard_optimizer: Whether the optimizer's moments are sharded among the devices of a process.
        task: What labels mean: `single_label()`, or `one_vs_rest()`, which may answer "none of
            these".
        drop_path: Share of the items for which training leaves out the last block, if the network
            supports it; see `create_model`.
        layer_decay: Ratio of the rate of each group to that of the next group, above 0 and at most
            1; see `group_rates`.
        class_weights: Weight of each class in the loss, in training and validation alike:
            "none", "balanced", "sqrt", a TOML file, or numbers; see `weights_of_classes`.
        sizes: Sides of the training pictures in pixels, or their heights and widths, for
            progressive resizing up to the validation size; each is used for about the same
            number of epochs. If there are none, all epochs use the validation size.

    Raises:
        ConfigError: A metric or the value of `bn` is unknown, a number is out of range, two metrics
            have the same name, there are class weights but the loss takes no weights, or a loss,
            mix or task is a name, which only the command line takes.

    Example:
        >>> Recipe(wd=0.1).replaced(clip=1.0).wd
        0.1
    """

    precision: str = "fp32"
    head: str | None = None
    groups: str = "auto"
    train_bn: bool = True
    wd: float = WD
    loss: Loss | None = None
    metrics: Sequence[str | Metric] = ()
    mix: Mixer | None = None
    optimizer: str = OPTIMIZER
    clip: float = CLIP
    accumulate: int = ACCUMULATE
    average: float = 0.0
    deterministic: bool = False
    devices: int = 0
    bn: str = "global"
    remat: bool = False
    shard_optimizer: bool = False
    task: Task = SOFTMAX
    drop_path: float = 0.0
    layer_decay: float = LAYER_DECAY
    class_weights: ClassWeights = "none"
    sizes: Sequence[Size] = ()

    def __post_init__(self) -> None:
        for name, wanted in OBJECTS.items():
            given = getattr(self, name)
            fits = isinstance(given, Task) if name == "task" else given is None or callable(given)
            if not fits:
                shown = name_of(given) if callable(given) else given
                raise ConfigError(f"{name} = {shown}: in Python this should be {wanted}")
        # Finds unknown metrics now rather than after the first epoch.
        self.task.scores(self.metrics)
        loss = self.loss or self.task.loss
        if not self._counts_classes_alike and not takes_weights(loss):
            raise ConfigError(
                f"fit.class_weights = {self.class_weights}: the loss takes no class weights; give "
                "it an argument `weight` (one number per class), or leave class_weights out"
            )
        if self.bn not in NORMS:
            raise ConfigError(f"model.bn = {self.bn}: should be one of {', '.join(NORMS)}")
        check_numbers(**{name: value for name, value in vars(self).items() if name in LIMITS})

    @property
    def grouping(self) -> str:
        """The value of `groups`, with "auto" replaced by "fastai" or "stages"."""
        by_default = "fastai" if self.layer_decay == 1 else "stages"
        return by_default if self.groups == "auto" else self.groups

    @property
    def _counts_classes_alike(self) -> bool:
        return isinstance(self.class_weights, str) and self.class_weights == "none"

    @property
    def columns(self) -> list[str]:
        """The names of the metrics that are recorded in addition to the task's."""
        return [name for name in self.task.scores(self.metrics) if name not in self.task.scores()]

    @property
    def objective(self) -> Loss:
        """The function to minimize: the chosen loss, or the task's, with the class weights.

        Raises:
            ConfigError: The class weights are not numbers yet; see `of_pictures`.
        """
        loss, weights = self.loss or self.task.loss, self.class_weights
        if self._counts_classes_alike:
            return loss
        if isinstance(weights, str | Path | Mapping):
            raise ConfigError(
                f"fit.class_weights = {weights}: the numbers depend on the pictures; call "
                "Recipe.of_pictures first"
            )
        weigh = _weighted if isinstance(loss, Hashable) else _weighted.__wrapped__
        return weigh(loss, tuple(weights))

    def of_pictures(self, labels: Int[np.ndarray, "items"], classes: Sequence[str]) -> Recipe:
        """Returns the recipe, completed with the values that depend on the training pictures.

        Class weights, if any, become numbers, one per class. If the largest class has at least
        three times as many pictures as the smallest, balanced accuracy is added to the metrics.

        Args:
            labels: Classes of the training pictures.
            classes: Names of the classes.

        Raises:
            ConfigError: As for `weights_of_classes`.
            DataError: `classes` is a set, a mapping or the like, which has no order of its own.
        """
        classes = names_in_order(classes)
        weights = self.class_weights
        if not self._counts_classes_alike:
            weights = weights_of_classes(weights, labels, classes)
        metrics, beside = tuple(self.metrics), "balanced_accuracy"
        if is_unequal(labels, len(classes)) and beside not in self.task.scores(metrics):
            metrics += (beside,)
        return replace(self, class_weights=weights, metrics=metrics)

    def reweighted(
        self, given: ClassWeights, labels: Int[np.ndarray, "items"], classes: Sequence[str]
    ) -> Recipe:
        """Returns the recipe with the class weights of other pictures; itself if they are the same.

        Args:
            given: What the weights are computed from; "balanced" and "sqrt" depend on pictures.
            labels, classes: As in `of_pictures`.
        """
        if not (isinstance(given, str) and given in ("balanced", "sqrt")):
            return self
        weights = weights_of_classes(given, labels, classes)
        return self if weights == self.class_weights else replace(self, class_weights=weights)

    def replaced(self, *values: Any, also: Iterable[str] = (), **overrides: Any) -> Recipe:
        """Returns the recipe with some of its values replaced.

        Args:
            values: Values of the first fields, in the order of the fields.
            also: Further names that the error message may propose in place of an unknown name.
            overrides: Values of fields, keyed by name.

        Raises:
            ConfigError: There is no such field, or the recipe does not accept a value.

        Example:
            >>> Recipe().replaced(wdd=0.1)
            Traceback (most recent call last):
            jaxch5.errors.ConfigError: wdd: there is no such argument; did you mean wd?
        """
        names = [field.name for field in fields(self)]
        changes = dict(zip(names, values, strict=False)) | overrides
        for name in changes.keys() - names:
            close = difflib.get_close_matches(name, [*names, *also], n=1)
            hint = f"did you mean {close[0]}?" if close else "see Recipe"
            raise ConfigError(f"{name}: there is no such argument; {hint}")
        return replace(self, **changes)

    def make_optimizer(
        self, lr: float | Sequence[float] = LR, **others: Any
    ) -> optax.GradientTransformation:
        """Creates the optimizer, whose rates are set before each step; see `TrainState.at_rate`.

        Args:
            lr: Learning rate, or a rate for each group of layers.
            others: Other arguments of `jaxch5.optim.optimizer.make_optimizer`.
        """
        made = make_optimizer(self.optimizer, lr, wd=self.wd, clip=self.clip, **others)
        return accumulated(made) if self.accumulate > 1 else made


@lru_cache(maxsize=8)
def _weighted(loss: Callable[..., Any], weights: tuple[float, ...]) -> Loss:
    # Cached, because JAX looks up compiled programs by the loss object, and would have to compile
    # again for a new object.
    return partial(loss, weight=weights)


def without_effect(
    recipe: Recipe, name: str, has_batch_norms: bool, made_from: ModelSpec | Any
) -> Iterator[str]:
    """Yields a line about each value of a recipe that changes nothing for a network.

    Args:
        recipe: Recipe with which the network is trained.
        name: Name of the network.
        has_batch_norms: Whether the network's body has batch norms.
        made_from: Specification of the network, or your own module.

    Example:
        >>> for line in without_effect(Recipe(precision="bf16"), "Tiny", False, object()):
        ...     print(line)
        precision = bf16 does not reach Tiny, which computes in the types that it was made with
    """
    if not (recipe.train_bn or has_batch_norms):
        yield f"train_bn = False changes nothing: {name} has no batch norms"
    ours = isinstance(made_from, ModelSpec) or recipe.precision == "fp32"
    if not ours and precision_of(made_from) != recipe.precision:
        yield (
            f"precision = {recipe.precision} does not reach {name}, which computes in the types "
            "that it was made with"
        )


def takes_weights(loss: Loss) -> bool:
    """Checks whether a loss has an argument for class weights that is not set yet.

    Example:
        >>> from jaxch5.losses import cross_entropy
        >>> takes_weights(cross_entropy), takes_weights(partial(cross_entropy, weight=[1, 2]))
        (True, False)
    """
    own = loss.keywords if isinstance(loss, partial) else {}
    return "weight" in signature(loss).parameters and "weight" not in own
