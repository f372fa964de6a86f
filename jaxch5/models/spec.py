"""Describes an architecture in one place, with all that the rest of the package needs to know.

Groups of layers, freezing, weight decay, the conversion of weights from other libraries, saved
learners and the transfer profile all rely on a `ModelSpec`, which `jaxch5.models.registry` finds by
name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from jaxch5.errors import ConfigError
from jaxch5.util.limits import is_one_number

if TYPE_CHECKING:
    import flax.linen as nn
    import numpy as np

# A variable's path in the tree of variables, such as ("params", "conv1", "kernel"). These are the
# keys of the dictionary that `flatten_dict` returns.
VariablePath = tuple[str, ...]
# The stages of a network whose `ModelSpec` names none: all modules but the head are the body.
BODY_AND_HEAD = ("body", "head")
HEAD = "head"
# PyTorch's names for flax's variables.
LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "embedding": "weight",
    "mean": "running_mean",
    "var": "running_var",
}


class _Normalization(NamedTuple):
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class Normalization(_Normalization):
    """Holds the statistics by which each colour is normalized, for values from 0 to 1.

    Args:
        mean: Mean of red, green and blue: a tuple, list or array; the attribute is a tuple.
        std: Standard deviation of red, green and blue, in the same form.

    Raises:
        ConfigError: These are not three finite numbers each, or a deviation is not above 0.

    Example:
        >>> Normalization(mean=(0.5, 0.5, 0.5), std=[0.25, 0.25, 0.25]).std
        (0.25, 0.25, 0.25)
    """

    __slots__ = ()

    def __new__(cls, mean: Iterable[float], std: Iterable[float]) -> Self:
        """Creates the statistics as tuples of Python's numbers, which can be keys and are JSON."""
        return super().__new__(cls, _of_colours("mean", mean), _of_colours("std", std))


def _of_colours(name: str, values: Any) -> tuple[float, float, float]:
    numbers = [*values] if isinstance(values, Iterable) else [values]
    if (
        len(numbers) != 3
        or not all(is_one_number(number) and math.isfinite(number) for number in numbers)
        or (name == "std" and min(numbers) <= 0)
    ):
        limit = " above 0" * (name == "std")
        raise ConfigError(
            f"{name} = {numbers}: should be three finite numbers{limit}, for red, green and blue"
        )
    red, green, blue = map(float, numbers)
    return red, green, blue


class LastMap(NamedTuple):
    """Says which output inside a network is the map that shows where the network looks.

    Attributes:
        module: Path of the module that returns the map, such as "blocks_11/norm1". "" selects
            an outermost module that returns [batch, height, width, channels]; see `find_map`.
        tokens: Number of tokens before the patches, if the map is [batch, tokens, channels].
        corner: Whether the map's first pixel is centred on the picture's first pixel, as it is if
            strided convolutions pad all sides alike. If not, each of the map's pixels is centred on
            its equal share of the picture.

    Example:
        >>> LastMap("blocks_11/norm1", tokens=1).corner
        False
    """

    module: str = ""
    tokens: int = 0
    corner: bool = False


OF_LAST_MODULE = LastMap()
IMAGENET = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


class HubWeights(NamedTuple):
    """Describes an architecture's weights on the Hugging Face hub.

    Attributes:
        repository: Name on the hub, such as "timm/resnet18.tv_in1k".
        accuracy: Top-1 accuracy on ImageNet's validation pictures, in percent, as stated by the
            authors of the weights; None if it is not known.
        licence: Licence of the weights; None if none is stated.
        size: Side, in pixels, of the pictures that the weights are tested on.
        crop: Side of such a picture, as a share of the short side of the picture it is cut from.
        interpolation: Filter with which pictures are resized for the test.
        normalization: Mean and standard deviation used in training; None means the architecture's.

    Example:
        >>> weights = HubWeights("timm/resnet18.tv_in1k", 69.758, licence="bsd-3-clause")
        >>> weights.tag, weights.crop
        ('tv_in1k', 0.875)
    """

    repository: str
    accuracy: float | None = None
    licence: str | None = None
    size: int = 224
    crop: float = 0.875
    interpolation: str = "bilinear"
    normalization: Normalization | None = None

    @property
    def tag(self) -> str:
        """The part of `repository` after the dot, which tells how the weights were trained."""
        return self.repository.partition(".")[2]


def torch_name(path: VariablePath) -> str:
    """Returns PyTorch's name for a variable.

    Example:
        >>> torch_name(("params", "stem", "norm", "scale"))
        'stem.norm.weight'
    """
    *modules, leaf = path[1:]
    return ".".join([*modules, LEAVES.get(leaf, leaf)])


def torch_layout(path: VariablePath, value: np.ndarray) -> np.ndarray:
    """Returns a kernel with its output and input axes first, as in PyTorch.

    An array that is not a kernel is returned unchanged.
    """
    last = value.ndim - 1
    is_kernel = path[-1] == "kernel" and value.ndim > 1
    return value.transpose(last, last - 1, *range(last - 1)) if is_kernel else value


def flax_layout(path: VariablePath, value: np.ndarray) -> np.ndarray:
    """Returns a kernel with its input and output axes last, as in flax.

    An array that is not a kernel is returned unchanged.
    """
    is_kernel = path[-1] == "kernel" and value.ndim > 1
    return value.transpose(*range(2, value.ndim), 1, 0) if is_kernel else value


@dataclass(frozen=True)
class Names:
    """Maps a network's variables to the names and layouts of other libraries.

    Attributes:
        of: Function from a variable's path to its name in a state dict.
        written: Function from a variable's path and its array in flax to its array in a state dict.
        read: Inverse of `written`.
        whose: Libraries that use these names, for messages.
        others: Other sets of names, which files may have and `export_state_dict` may write. Each
            set maps beginnings of the names that `of` returns to their replacements.

    Example:
        >>> Names(lambda path: "/".join(path[1:])).of(("params", "stem", "kernel"))
        'stem/kernel'
    """

    of: Callable[[VariablePath], str] = torch_name
    written: Callable[[VariablePath, np.ndarray], np.ndarray] = torch_layout
    read: Callable[[VariablePath, np.ndarray], np.ndarray] = flax_layout
    whose: str = "its own"
    others: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelSpec:
    """Describes an architecture: how a network is built, and what can be done with it.

    The network is a linen module, called as `module.apply(variables, x, train=bool)` on normalized
    pictures [B, H, W, 3]; its last layers, which compute the logits, are in its module `head`.

    Attributes:
        name: Name in configurations, checkpoints and learners' files.
        build: Function from the number of classes to the module. If it has parameters named `head`,
            `dtype`, `remat` or `drop_path`, it is also given the settings of these names (see
            `create_model`), and the module keeps `head` as an attribute. Settings that are not
            among its parameters cannot be changed.
        stages: Names of the stages, earliest first; the last is "head".
        stage_of: Function from the name of a top-level module to its stage. If it is None, a module
            belongs to the stage that has the module's name, or the part of that name before an
            underscore. If there is no such stage, the module belongs to the first stage.
        fastai: Number of stages in each group of `groups="fastai"`, earliest group first; () makes
            two groups, the body and the head.
        heads: Heads that the network can be built with, the head of its ImageNet weights first;
            () if there is no choice.
        frozen: Function from a module and a number n to a module whose first n stages use their
            running statistics in training too; `train_bn=False` needs this function for a module
            with such statistics.
        no_decay: Parameters that have no weight decay, each given as the last part of its path.
            Biases and vectors never have any.
        names: Names of the variables in other libraries; by default, those that PyTorch would give
            them.
        weights: Weights of the architecture on the hub; `weights="imagenet"` takes the first.
        normalization: Mean and standard deviation of colours that the weights were trained with.
        size: Side, in pixels, of a picture with which the network can be initialized.
        family: Name of the kind of network, such as "ResNet", for messages.
        recognizes: Function that tells whether a state dict, some of whose entries may be missing,
            belongs to exactly this architecture; None compares the entries' names.
        import_path: Import path that named the architecture, if any; a learner's file records it.
        resample: Functions for parameters whose inner axes depend on the size of pictures, keyed by
            the last part of the parameter's path. Each function takes the parameter's value, the
            height and width of other pictures, and those of the pictures that the value is for (or
            None if nothing states them); it returns the value for the other pictures.
        last_map: Which map shows where the network looks; see `jaxch5.attribution`.

    Example:
        >>> import flax.linen as nn
        >>> class Small(nn.Module):
        ...     num_classes: int
        ...
        ...     @nn.compact
        ...     def __call__(self, x, train):
        ...         x = nn.relu(nn.Conv(8, (3, 3), 2, name="stem")(x))
        ...         x = nn.relu(nn.Conv(16, (3, 3), 2, name="wide")(x))
        ...         return nn.Dense(self.num_classes, name="head")(x.mean((1, 2)))
        >>> small = ModelSpec("small", Small, stages=("stem", "wide", "head"))
        >>> [small.stage(module) for module in ("stem", "wide", "wide_2", "head")]
        ['stem', 'wide', 'wide', 'head']
        >>> small.build(num_classes=3).num_classes
        3
    """

    name: str
    build: Callable[..., nn.Module]
    stages: tuple[str, ...] = BODY_AND_HEAD
    stage_of: Callable[[str], str] | None = None
    fastai: tuple[int, ...] = ()
    heads: tuple[str, ...] = ()
    frozen: Callable[[nn.Module, int], nn.Module] | None = None
    no_decay: tuple[str, ...] = ()
    names: Names | None = field(default_factory=Names, hash=False)
    weights: tuple[HubWeights, ...] = ()
    normalization: Normalization = IMAGENET
    size: int = 32
    family: str = ""
    recognizes: Callable[[Mapping[str, Any]], bool] | None = None
    import_path: str = field(default="", compare=False)
    resample: Mapping[
        str, Callable[[np.ndarray, tuple[int, int], tuple[int, int] | None], np.ndarray]
    ] = field(default_factory=dict, hash=False)
    last_map: LastMap = OF_LAST_MODULE

    def __post_init__(self) -> None:
        # An earlier version took a single `HubWeights`, or None.
        given = (self.weights,) if isinstance(self.weights, HubWeights) else self.weights or ()
        object.__setattr__(self, "weights", tuple(given))
        if self.stages[-1:] != (HEAD,) or len(set(self.stages)) < max(len(self.stages), 2):
            raise ConfigError(
                f"{self.name}: stages = {', '.join(self.stages)}: should be two or more distinct "
                f"names, the last one {HEAD}"
            )
        if self.fastai and (sum(self.fastai) != len(self.stages) or min(self.fastai) < 1):
            raise ConfigError(
                f"{self.name}: fastai = {self.fastai}: should add up to its {len(self.stages)} "
                "stages, each group having one or more"
            )

    def stage(self, module: str) -> str:
        """Returns the stage of a top-level module.

        Args:
            module: Name of the module.
        """
        if self.stage_of:
            return self.stage_of(module)
        of_name = (s for s in self.stages if module == s or module.startswith(f"{s}_"))
        return max(of_name, key=len, default=self.stages[0])

    def group_sizes(self, groups: str) -> tuple[int, ...]:
        """Returns how many stages each group of layers has.

        Args:
            groups: "fastai" or "stages".

        Raises:
            ConfigError: `groups` is neither of these names.
        """
        count = len(self.stages)
        known = {"fastai": self.fastai or (count - 1, 1), "stages": (1,) * count}
        if groups not in known:
            raise ConfigError(f"model.groups = {groups}: should be one of {', '.join(known)}")
        return known[groups]


def with_frozen_stages(module: nn.Module, stages: int) -> nn.Module:
    """Returns a copy of a module with `frozen_stages` set to `stages`; see `ModelSpec.frozen`.

    Raises:
        ConfigError: The module has no such attribute.
    """
    if "frozen_stages" not in {field.name for field in fields(module)}:
        raise ConfigError(
            f"model.train_bn = false: {type(module).__name__} has no annotated attribute "
            "frozen_stages, which jaxch5's ResNets have"
        )
    return module.clone(frozen_stages=stages)
