"""Finds the weights that training begins from, and transfers the parts that fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import PyTree

from jaxch5.errors import CheckpointError, ConfigError, WeightsError
from jaxch5.framing import Size, size_text
from jaxch5.metrics import Record
from jaxch5.models.pretrained import Pretrained, from_file, from_hub, holds_weights
from jaxch5.models.provenance import SETTINGS, size_of
from jaxch5.models.reader import refuse_damaged
from jaxch5.models.registry import spec_of
from jaxch5.models.spec import ModelSpec, Normalization
from jaxch5.run.checkpoint import StoredCheckpoints
from jaxch5.run.conditions import CONDITIONS
from jaxch5.run.directory import open_run
from jaxch5.util.address import is_on_hub
from jaxch5.util.text import counted, plain_console, print_line, same_names
from jaxch5.view import WHOLE, view_of

# Matches names of licences that forbid commercial use, such as Creative Commons' licences with "nc"
# in their names, and "amlr", Apple's licence for research models.
FORBIDS = (
    r"(?<![a-z])(nc|amlr)(?![a-z])|non[-_ ]?commercial|research[-_ ]((use|purposes?)[-_ ])?only"
)


def load_weights(weights: str | Path, arch: str | ModelSpec) -> dict[str, PyTree]:
    """Returns variables of a network, `{"params": ..., "batch_stats": ...}`, or of its body alone.

    Args:
        weights: "imagenet" (from the hub or its cache); one of the architecture's tags, such as
            "a1_in1k", or a repository of the hub, such as "timm/resnet50.a1_in1k", either with or
            without `@REVISION`; a file, such as a `.safetensors` or `.pth` file, with `#PART` to
            select one state dict of several; a folder laid out like a repository of the hub; or a
            run directory.
        arch: Name of an architecture, or a `ModelSpec`.

    Raises:
        ConfigError: The folder is not a run, or there is no such architecture.
        WeightsError: The weights cannot be fetched or read, or do not fit.

    Example:
        >>> import tempfile
        >>> from functools import partial
        >>> import numpy as np
        >>> from safetensors.numpy import save_file
        >>> from jaxch5.models.registry import create_model
        >>> from jaxch5.models.weights import export_state_dict
        >>> init = partial(create_model("resnet18", num_classes=3).init, train=False)
        >>> shapes = jax.eval_shape(init, jax.random.key(0), np.zeros((1, 32, 32, 3)))
        >>> variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
        >>> with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        ...     save_file(export_state_dict(variables, "resnet18"), file.name)
        ...     load_weights(file.name, "resnet18")["params"]["head"]["kernel"].shape
        (512, 3)
    """
    return find_weights(weights, arch).variables


def find_weights(
    weights: str | Path, arch: str | ModelSpec, normalization: Normalization | None = None
) -> Pretrained:
    """Finds weights, with their normalization, classes and origin.

    Args:
        weights, arch: As in `load_weights`.
        normalization: Mean and standard deviation used in their training; if None, the stored ones
            are used.
    """
    if isinstance(weights, str) and is_on_hub(weights):
        return from_hub(arch, weights=weights, normalization=normalization)
    path = Path(weights).expanduser()
    if not path.is_dir() or holds_weights(path):
        return from_file(path, arch, normalization)
    found = from_run(path, arch)
    if normalization is None:
        return found
    return found._replace(normalization=normalization, normalized_by=SETTINGS)


def available(arch: str | ModelSpec) -> tuple[str, str]:
    """Resolves `weights="auto"`: "imagenet" if such weights can be fetched, else "none".

    Returns:
        The resolved name, and a line that says why it is "none"; the line is "" for "imagenet".
    """
    try:
        from_hub(arch)
    except WeightsError as error:
        return "none", f"no ImageNet weights, training from scratch: {error}; expect less accuracy"
    return "imagenet", ""


def pretrained_of(
    weights: str | Path | Mapping[str, PyTree],
    arch: str | ModelSpec | nn.Module,
    head: str,
    classes: tuple[str, ...],
    normalization: Normalization | None,
    say: Callable[[str], None] | None,
    view: Mapping[str, Any] = {},
) -> Pretrained | None:
    """Finds the weights that `vision_learner` begins from; None stands for random initialization.

    Args:
        weights, arch, head, normalization: As in `vision_learner`.
        classes: Names of the new network's classes.
        say: Function that takes a line about the weights, or about why "auto" found none; None
            prints the line.
        view: `crop_pct` and `interpolation` to use; a missing one is taken from the weights.

    Raises:
        ConfigError: `weights` is a name, but `arch` is a module of your own; or there is no such
            run or architecture.
        WeightsError: The weights cannot be fetched or read, or do not fit.

    Example:
        >>> pretrained_of("none", "resnet18", "linear", ("cat", "dog"), None, print)
    """
    say = say or partial(print_line, plain_console())
    if isinstance(weights, Mapping):
        spec, given = spec_of(arch), "the variables that were given"
        whose = f"those of {spec.name}" if normalization is None else "those that were given"
        colours = normalization or spec.normalization
        pretrained = Pretrained(dict(weights), colours, None, given, whose)
        say(describe(pretrained, head if spec.heads else "", classes))
        return pretrained
    if not isinstance(arch, str | ModelSpec):
        if weights in ("auto", "none"):
            return None
        raise ConfigError(
            f"weights = {weights}: no named weights are known for a module of your own; give "
            "weights='none', its variables, or a ModelSpec that builds it"
        )
    if weights == "auto":
        weights, reason = available(arch)
        if reason:
            say(reason)
    if weights == "none":
        return None
    pretrained = find_weights(weights, arch, normalization)
    pretrained = pretrained._replace(view=view_of(view, pretrained.view))
    say(describe(pretrained, head if spec_of(arch).heads else "", classes))
    return pretrained


def describe(pretrained: Pretrained, head: str, classes: tuple[str, ...]) -> str:
    """Describes weights in one line: origin, normalization, whether the head is kept, and more.

    Args:
        pretrained: Weights to describe.
        head: Kind of head of the new network, such as "linear"; "" stands for the only kind that
            the architecture offers.
        classes: Names of the new network's classes.
    """
    mean, std = (", ".join(f"{value:g}" for value in row) for row in pretrained.normalization)
    parts = [
        f"weights: {pretrained.origin}",
        f"mean {mean} and deviation {std} ({pretrained.normalized_by})",
    ]
    if (view := pretrained.view) != WHOLE:
        share = "all" if view.crop_pct == 1 else f"{view.crop_pct:g}"
        parts.append(
            f"evaluation sees {share} of the short side, with a {view.interpolation} filter"
        )
    if pretrained.size is not None:
        parts.append(f"tested at {size_text(pretrained.size)} pixels")
    parts += pretrained.remarks
    if pretrained.licence:
        forbids = re.search(FORBIDS, pretrained.licence, re.IGNORECASE)
        more = ", which forbids commercial use" if forbids else ""
        parts.append(f"licence {pretrained.licence}{more}")
    parts.append(_fate_of_head(pretrained, head, classes))
    if pretrained.left_out:
        first, count = pretrained.left_out[0], len(pretrained.left_out)
        others = f" and {counted(count - 1, 'other')}" if count > 1 else ""
        parts.append(f"not used: {first}{others}")
    if pretrained.others:
        parts.append(
            f"the file has other weights too (--model.weights FILE#PART): "
            f"{', '.join(pretrained.others)}"
        )
    return "; ".join(parts)


def _fate_of_head(pretrained: Pretrained, head: str, classes: tuple[str, ...]) -> str:
    """Describes whether `transfer` keeps the weights' head, and if not, why."""
    old = pretrained.variables["params"].get("head")
    if old is None:
        return "a new head: the weights have no head of a known kind"
    kind = pretrained.head or ("concat_pool" if "fc2" in old else "linear")
    if pretrained.classes is None:
        return "a new head: the classes of the weights' head are unknown"
    if not same_names(classes, pretrained.classes):
        return (
            f"a new head: their {len(pretrained.classes)} classes differ, or are in another order"
        )
    if head and kind != head:
        return f"a new head: theirs is {kind} (--model.head {kind})"
    return f"their head is kept: the same {len(classes)} classes"


def _fits_head(pretrained: Pretrained, head: str | None) -> bool:
    """Checks that the weights' head is not known to be of a kind other than `head`.

    A head on the mean of the patches has the same shapes as one on the class token, so a head
    counts as one on the mean only if the weights say so. Heads of other kinds differ in their
    shapes, which `transfer` compares.
    """
    return head is None or head == pretrained.head or not (pretrained.head or head == "mean_pool")


def from_run(path: Path, arch: str | ModelSpec) -> Pretrained:
    """Returns the last weights of a run, or its best ones if its settings say to keep the best.

    If the last checkpoint is damaged, a line on standard error says that an earlier one is used.

    Raises:
        ConfigError: There is no run, or its configuration is invalid.
        WeightsError: The checkpoint is missing or damaged, or is of another architecture.
    """
    about, variables, record = last_or_best(path, spec_of(arch).name)
    try:
        refuse_damaged(variables)
        normalization = Normalization(tuple(about["mean"]), tuple(about["std"]))
        classes, view = tuple(about["classes"]), view_of(about)
        found = Pretrained(variables, normalization, classes, str(path), "the run", view=view)
        head = {**about.get(CONDITIONS, {})}.get("head") or ""
        found = found._replace(head=head, size=size_of_run(about))
        return found._replace(licence=about.get("licence"), record=record)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    except (KeyError, TypeError) as error:
        raise WeightsError(
            f"{path}: its checkpoint lacks a value or holds a wrong one ({error})"
        ) from None


def size_of_run(about: Mapping[str, Any]) -> Size | None:
    """Returns the size of pictures in a checkpoint's description; None if it has none."""
    return size_of({**about.get(CONDITIONS, {})}.get("size"))


def last_or_best(
    path: Path, name: str, with_variables: bool = True
) -> tuple[dict[str, Any], dict[str, PyTree], Record]:
    """Reads the checkpoint that `from_run` uses; `name` is the architecture that it has to have."""
    run, config = open_run(path)
    saves = StoredCheckpoints(run.checkpoints)
    # Standard output may be a command's result.
    say = partial(print_line, plain_console(stderr=True))

    def read(step: int) -> tuple[dict[str, Any], dict[str, PyTree], Record]:
        about = saves.about(step)
        if (found := about.get("arch")) != name:
            raise WeightsError(f"{path}: is a run of {found}, not {name} (--model.arch {found})")
        return about, saves.variables(step) if with_variables else {}, saves.record(step)

    try:
        best = saves.best_step() if config.fit.keep_best else None
        found = read(best) if best is not None else saves.newest(read, say)
    except CheckpointError as error:
        raise WeightsError(str(error)) from None
    if found is None:
        raise WeightsError(f"{path}: this run has no checkpoint yet")
    return found


def transfer(
    variables: dict[str, PyTree],
    pretrained: Pretrained,
    classes: tuple[str, ...],
    head: str | None = None,
) -> dict[str, PyTree]:
    """Returns variables with the pretrained body, and the pretrained head if that fits too.

    Args:
        variables: Freshly initialized variables of the new network.
        pretrained: Weights of a network with the same body.
        classes: Names of the new network's classes; a head fits only if its classes are the same.
        head: Kind of head of the new network; None stands for the only kind that the architecture
            offers.

    Raises:
        WeightsError: A part of the body is missing, or does not have the shapes that are needed.
    """

    def part(name: str, new: PyTree, old: PyTree | None) -> PyTree:
        fits = _shapes(new) == _shapes(old)
        if name == "head":
            fits = fits and _fits_head(pretrained, head)
            return old if fits and same_names(classes, pretrained.classes or ()) else new
        if not fits:
            what = "has no" if old is None else "does not have the shapes needed for"
            raise WeightsError(f"{pretrained.origin}: {what} {name}")
        return old

    return {
        kind: {
            name: part(name, new, pretrained.variables.get(kind, {}).get(name))
            for name, new in parts.items()
        }
        for kind, parts in variables.items()
    }


def _shapes(tree: PyTree) -> Any:
    return jax.tree.structure(tree), [leaf.shape for leaf in jax.tree.leaves(tree)]
