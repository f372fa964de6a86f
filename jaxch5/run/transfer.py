"""Finds the weights that training begins from, and transfers the parts that fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import PyTree

from jaxch5.errors import CheckpointError, ConfigError, WeightsError
from jaxch5.framing import Size, size_text
from jaxch5.metrics import Record
from jaxch5.models.layers import OF_TOKENS
from jaxch5.models.pretrained import Pretrained, from_file, from_hub, holds_weights
from jaxch5.models.provenance import SETTINGS, size_of
from jaxch5.models.reader import refuse_damaged
from jaxch5.models.registry import spec_of
from jaxch5.models.spec import HEAD, ModelSpec, Normalization
from jaxch5.run.checkpoint import StoredCheckpoints
from jaxch5.run.conditions import CONDITIONS
from jaxch5.run.directory import RunDir, open_run
from jaxch5.util.address import expanded, is_on_hub
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
    path = expanded(Path(weights))
    if not stands_for_run(path):
        return from_file(path, arch, normalization)
    found = from_run(path, arch)
    if normalization is None:
        return found
    return found._replace(normalization=normalization, normalized_by=SETTINGS)


def stands_for_run(path: Path) -> bool:
    """Checks whether a path of weights is read as a run: it has checkpoints, or holds no weights.

    A run that was exported into its own folder is still a run: its checkpoints may be newer. If
    these were removed to free space, the exported weights are all that is left.
    """
    if not path.is_dir():
        return False
    return bool(StoredCheckpoints(RunDir(path).checkpoints).steps()) or not holds_weights(path)


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
    normalization: Normalization | None,
    say: Callable[[str], None],
    view: Mapping[str, Any] = {},
) -> Pretrained | None:
    """Finds the weights that `vision_learner` begins from; None stands for random initialization.

    Args:
        weights, arch, normalization: As in `vision_learner`.
        say: Function that takes a line about why "auto" found none.
        view: `crop_pct` and `interpolation` to use; a missing one is taken from the weights.

    Raises:
        ConfigError: `weights` is a name, but `arch` is a module of your own; or there is no such
            run or architecture.
        WeightsError: The weights cannot be fetched or read, or do not fit.

    Example:
        >>> pretrained_of("none", "resnet18", None, print)
    """
    if isinstance(weights, Mapping):
        return _of_variables(weights, spec_of(arch), normalization)
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
    return pretrained._replace(view=view_of(view, pretrained.view))


def _of_variables(
    variables: Mapping[str, PyTree], spec: ModelSpec, normalization: Normalization | None
) -> Pretrained:
    given = "the variables that were given"
    if "params" not in variables:
        raise WeightsError(
            f"{given}: have no collection params, so they may be its content; pass them as "
            'module.init returns them: {"params": ..., "batch_stats": ...}'
        )
    try:
        refuse_damaged(dict(variables))
    except WeightsError as error:
        raise WeightsError(f"{given}: {error}") from None
    whose = f"those of {spec.name}" if normalization is None else "those that were given"
    return Pretrained(dict(variables), normalization or spec.normalization, None, given, whose)


def describe(pretrained: Pretrained, fate_of_head: str) -> str:
    """Describes weights in one line: origin, normalization, whether the head is kept, and more.

    Args:
        pretrained: Weights to describe.
        fate_of_head: Whether their head is kept, as `transfer` says it.
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
    parts.append(fate_of_head)
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
    except (WeightsError, ConfigError) as error:
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
) -> tuple[dict[str, PyTree], str]:
    """Takes the pretrained body over into a network, and the pretrained head if that fits too.

    Args:
        variables: Freshly initialized variables of the new network.
        pretrained: Weights of a network with the same body.
        classes: Names of the new network's classes; a head fits only if its classes are the same.
        head: Kind of head of the new network; None stands for the only kind that the architecture
            offers.

    Returns:
        The variables of the network, and in words whether the pretrained head was taken, and why.

    Raises:
        WeightsError: A part of the body is missing, or does not have the shapes that are needed.
    """
    is_kept, fate = _fate_of_head(pretrained, variables, classes, head)

    def part(name: str, new: PyTree, old: PyTree | None) -> PyTree:
        if name == HEAD and not is_kept:
            return new
        if _shapes(new) != _shapes(old):
            what = "has no" if old is None else "does not have the shapes needed for"
            raise WeightsError(f"{pretrained.origin}: {what} {name}")
        return old

    taken = {
        kind: {
            name: part(name, new, pretrained.variables.get(kind, {}).get(name))
            for name, new in parts.items()
        }
        for kind, parts in variables.items()
    }
    return taken, fate


def _fate_of_head(
    pretrained: Pretrained,
    variables: Mapping[str, PyTree],
    classes: tuple[str, ...],
    head: str | None,
) -> tuple[bool, str]:
    """Decides whether a network takes over the head of weights, and describes the decision."""
    new, old = (_of_head(each, variables) for each in (variables, pretrained.variables))
    if not new:
        return True, "all layers are kept, since no part of the network is called head"
    if not old:
        return False, "a new head: the weights have no head of a known kind"
    if pretrained.classes is None:
        return False, "a new head: the classes of the weights' head are unknown"
    if not same_names(classes, pretrained.classes):
        count = len(pretrained.classes)
        return False, f"a new head: their {count} classes differ, or are in another order"
    # The shapes decide what is not stated. A head on the class token and one on the mean have the
    # same shapes, so one that is not stated to be on the mean is on the class token.
    stated = pretrained.head
    may_be = head in (None, stated) or not (stated or head == "mean_pool")
    if may_be and _shapes(new) == _shapes(old):
        return True, f"their head is kept: the same {len(classes)} classes"
    kind = stated or ("concat_pool" if "fc2" in old.get("params", {}) else "linear")
    if head not in (None, kind) and (stated or head in OF_TOKENS):
        return False, f"a new head: theirs is {kind} (--model.head {kind})"
    return False, "a new head: theirs has other shapes"


def _of_head(tree: Mapping[str, PyTree], kinds: Iterable[str]) -> dict[str, PyTree]:
    """Returns a network's variables of these kinds that belong to its head."""
    return {kind: tree[kind][HEAD] for kind in kinds if HEAD in tree.get(kind, {})}


def _shapes(tree: PyTree) -> Any:
    return jax.tree.structure(tree), [leaf.shape for leaf in jax.tree.leaves(tree)]
