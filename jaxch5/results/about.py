"""Describes a classifier apart from its weights, and checks that the description fits them."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
from flax.traverse_util import flatten_dict
from pydantic import ValidationError

from jaxch5.config.settings import Config
from jaxch5.config.toml import explain, known_keys
from jaxch5.data.block import Data
from jaxch5.data.decode import AS_FILES_SAY, Reading
from jaxch5.errors import ConfigError, WeightsError
from jaxch5.framing import Framing, Size
from jaxch5.models.pretrained import Pretrained
from jaxch5.models.registry import architectures, spec_of
from jaxch5.models.spec import ModelSpec
from jaxch5.run.directory import open_run
from jaxch5.task import NAMED, SOFTMAX, Task, task_of
from jaxch5.training.kept import kept_shapes
from jaxch5.util.address import PICKLES, SAFETENSORS
from jaxch5.util.imports import FORM, check_listed, is_import_path
from jaxch5.view import WHOLE, View, view_of

EXPORT = "export one with jaxch5 export RUN --format learner"


class About(NamedTuple):
    """Holds the description of a classifier: how it was built, and how it sees pictures.

    Attributes:
        arch, head, precision: What the network is built from; see `create_model`.
        presize, size: Side to which the CPU resizes pictures, and side (or height and width) of the
            network's input; all in pixels.
        range, max_pixels: How pictures are decoded; see `Reading`.
        method, pad_mode: How pictures are brought to the shape of the network's input; see
            `Framing`.
        crop_pct, interpolation: How much of each picture is seen in evaluation and prediction, and
            how it is resized; see `View`.
        licence: Licence of the weights from which training began; None if it is not known.
    """

    arch: str
    head: str
    precision: str
    presize: int
    size: Size
    range: str = AS_FILES_SAY.range
    max_pixels: int = AS_FILES_SAY.max_pixels
    method: str = Framing.method
    pad_mode: str = Framing.pad_mode
    crop_pct: float = WHOLE.crop_pct
    interpolation: str = WHOLE.interpolation
    licence: str | None = None

    @property
    def framing(self) -> Framing:
        """Returns how pictures are brought to the shape of the network's input."""
        return Framing(self.method, self.pad_mode)

    @property
    def reading(self) -> Reading:
        """Returns how pictures are decoded."""
        return Reading(self.range, self.max_pixels)

    @property
    def view(self) -> View:
        """Returns what evaluation and prediction see of a picture."""
        return View(self.crop_pct, self.interpolation)


def about_of_file(
    path: Path, model: str | ModelSpec | nn.Module | None = None
) -> tuple[About, ModelSpec, dict[str, Any]]:
    """Returns the description and the architecture in a learner's file, and all its metadata.

    Args:
        path: Learner's file.
        model: Architecture that the caller expects; see `spec_of_file`.

    Raises:
        ConfigError: The architecture that the caller names does not exist.
        WeightsError: There is no such learner's file, or its metadata or architecture is wrong.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            said = file.metadata() or {}
    except FileNotFoundError:
        file = path.with_suffix(SAFETENSORS)
        meant = f"; did you mean {file}" if file.exists() else ""
        raise WeightsError(f"{path}: there is no such run or file{meant}") from None
    except (SafetensorError, OSError) as error:
        if path.suffix in (".pkl", *PICKLES):
            raise WeightsError(
                f"{path}: is a pickle, not a learner's file; {EXPORT}, or save its weights as a "
                ".pth file, and start training from them with --model.weights"
            ) from None
        raise WeightsError(f"{path}: is neither a run nor a learner's file: {error}") from None
    # Fields that older files lack have defaults.
    missing = [name for name in About._fields if name not in {*said, *About._field_defaults}]
    if missing:
        raise WeightsError(f"{path}: is not a learner's file, as it has no {missing[0]}; {EXPORT}")
    spec = spec_of_file(path, said["arch"], model, said.get("import_path", ""))
    of_data = {"presize", "size", *About._field_defaults} - {"licence"}
    sizes = {name: said[name] for name in of_data if name in said}
    network = {"precision": said["precision"]}
    try:
        if spec.heads:
            check_listed(said["head"], spec.heads, "head")
        # The values in a file have to be within the bounds of the configuration.
        config = Config.model_validate({"data": sizes, "model": network})
    except ValidationError as error:
        raise WeightsError(
            f"{path}: in its metadata, {explain(error, known_keys(Config))}"
        ) from None
    except ValueError as error:
        raise WeightsError(f"{path}: in its metadata, {error}") from None
    own = {"arch": said["arch"], "head": said["head"], "licence": said.get("licence")}
    return about_of(config)._replace(**own), spec, said


def spec_of_file(
    path: Path, arch: str, model: str | ModelSpec | nn.Module | None, import_path: str = ""
) -> ModelSpec:
    """Returns the architecture of a run or a learner's file; never imports a path found in it.

    Args:
        path: Run or file.
        arch: Name of the architecture in the run or file.
        model: Architecture that the caller expects; None accepts any of `architectures()`.
        import_path: Import path in the run or file, for the error message.

    Raises:
        ConfigError: The architecture that the caller names does not exist.
        WeightsError: The architecture differs from `model`, or is unknown and `model` is None.
    """
    if model is None:
        if arch not in architectures():
            named = next(filter(is_import_path, (import_path, arch)), FORM)
            raise WeightsError(
                f"{path}: has the architecture {arch}, which is not one of "
                f"{', '.join(architectures())}, and a file's import path is never imported; if you "
                f"trust it, pass --model.arch {named}, or in Python load_learner(path, model=...)"
            )
        return spec_of(arch)
    spec = spec_of(model)
    if arch != spec.name:
        raise WeightsError(f"{path}: has the architecture {arch}, not {spec.name}")
    return spec


def about_of_run(path: Path) -> tuple[About, dict[str, Any]]:
    """Returns the description of a run's classifier, and the settings of its task.

    Raises:
        ConfigError: The folder is not a run, or its configuration is invalid.
    """
    config = open_run(path)[1]
    # There is a threshold even if the task is softmax, which makes no use of it.
    unused = {"threshold"} if config.model.task == SOFTMAX.name else None
    return about_of(config), config.model.model_dump(include={"task", "threshold"}, exclude=unused)


def known_task(path: Path, said: dict[str, Any]) -> Task:
    """Returns the task that a run or a file names, without importing anything.

    Args:
        path: Run or file.
        said: Its settings or metadata: `task` (softmax if missing) and `threshold` (0 if missing).

    Raises:
        WeightsError: The task is not a built-in one, or the threshold is not a probability.
    """
    name, threshold = said.get("task", SOFTMAX.name), said.get("threshold", 0)
    if name not in NAMED:
        raise WeightsError(
            f"{path}: has the task {name}, which is not one of {', '.join(NAMED)}; name it with "
            "--model.task package.module:TASK, or in Python load_learner(path, task=...)"
        )
    try:
        return replace(task_of(name), threshold=float(threshold))
    except (ValueError, ConfigError):
        raise WeightsError(
            f"{path}: its threshold is {threshold}, but should be from 0 to 1"
        ) from None


def head_of(model: nn.Module, spec: ModelSpec) -> str:
    """Returns the name of a network's head, to store in a learner's file; "" if it has no name."""
    return getattr(model, "head", "") if spec.heads or spec.names is None else ""


def about_network(
    model: nn.Module,
    spec: ModelSpec,
    precision: str,
    data: Data,
    view: View,
    licence: str | None,
) -> About:
    """Returns the description of a classifier that is trained on data."""
    how = {**vars(data.framing), **vars(view), "licence": licence}
    network = spec.name, head_of(model, spec), precision
    return About(*network, data.presize, data.size, *data.source.reading, **how)


def about_of(config: Config) -> About:
    """Returns the description of the classifier that a run with this configuration trains."""
    model, data = config.model, config.data
    sizes = data.presize, data.size, data.range, data.max_pixels, data.method, data.pad_mode
    view = view_of(data.model_dump())
    return About(model.arch, model.head, model.precision, *sizes, **vars(view))


def check_weights(path: Path, network: nn.Module, pretrained: Pretrained, size: Size) -> None:
    """Checks that the description in an untrusted file or run fits its weights.

    Args:
        path: File or run.
        network: Module that the weights should fit.
        pretrained: Weights in the file or run, with their description.
        size: Side of the pictures that the network takes, or their height and width, in pixels.

    Raises:
        WeightsError: The description is not valid, or does not fit the weights.
    """
    classes, (mean, std) = pretrained.classes or (), pretrained.normalization
    if not all(isinstance(name, str) for name in classes):
        raise WeightsError(f"{path}: its class names are not all text")
    if pretrained.left_out:
        raise WeightsError(f"{path}: {pretrained.left_out[0]} is not part of its network")
    numbers = [*mean, *std]
    if len(numbers) != 6 or not all(
        isinstance(number, int | float) and isfinite(number) for number in numbers
    ):
        raise WeightsError(f"{path}: its mean and deviation are not three numbers each")
    if min(std) <= 0:
        raise WeightsError(f"{path}: its deviation is not above zero")
    wanted = flatten_dict(dict(kept_shapes(network, size)[1]))
    found = flatten_dict(pretrained.variables)
    for name in sorted(wanted.keys() | found.keys()):
        has, needs = (getattr(tree.get(name), "shape", None) for tree in (found, wanted))
        if has != needs:
            raise WeightsError(
                f"{path}: {'.'.join(name)} has shape {has}, but its architecture and its head, "
                f"with {len(classes)} classes, need shape {needs}"
            )
