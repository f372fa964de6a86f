"""Defines in one table when each setting has an effect, so that none is silently ignored.

A setting that is not in the table always has an effect. The rules are checked whenever more is
known: first only the settings, then the pictures too, and finally the network and the devices. A
rule counts as fulfilled as long as what it depends on is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# File name extensions of tables.
TABLES = (".csv", ".tsv", ".tab", ".txt")
# How messages describe each kind of source that pictures are read from.
KINDS = {
    "digits": "the digits",
    "folder": "a folder",
    "table": "a table, whose columns give the classes and the split",
    "packed": "a packed set, which has its own classes and its own split",
    "archive": "an archive",
    "tfds": "a prepared set",
}


@dataclass(frozen=True)
class Pictures:
    """Holds what is known about pictures once they are found.

    Attributes:
        kind: What the pictures are read from, one of `KINDS`.
        columns: Names of the columns by which the pictures can be split.
        split_column: Whether one of the columns splits the pictures: the one that the settings name
            or, if they name none, one that looks like a split.
        own_split: What splits the pictures, in words; empty for a random split.
    """

    kind: str
    columns: tuple[str, ...] = ()
    split_column: bool = True
    own_split: str = ""


@dataclass(frozen=True)
class Situation:
    """Holds what decides whether a setting has an effect.

    Attributes:
        values: Values of all settings, or of one section, keyed by their dotted names.
        pictures: What is known about the pictures; None until they are found.
        devices: Number of processes that share a batch, and number of devices in each process; None
            until known.
        lacks: Settings that have no effect with this network, each mapped to the reason; empty
            until the network is known.
    """

    values: Mapping[str, Any]
    pictures: Pictures | None = None
    devices: tuple[int, int] | None = None
    lacks: Mapping[str, str] = field(default_factory=dict)

    def kinds(self) -> set[str]:
        """Returns the kinds of source that the pictures may be read from; see `KINDS`."""
        if self.pictures is not None:
            return {self.pictures.kind}
        for kind in ("tfds", "archive"):
            if self.values[f"data.{kind}"] is not None:
                return {kind}
        path = self.values["data.path"]
        if path is None:
            return {"digits"}
        table = isinstance(path, Path) and path.suffix.lower() in TABLES
        # Only the file system shows whether this is a packed set, or a folder named like a table.
        return {"folder", "packed"} | ({"table"} if table else set())


@dataclass(frozen=True)
class Rule:
    """Says what a setting needs in order to have an effect.

    Attributes:
        holds: Function that tells whether the setting has an effect.
        goes_with: Function that returns the words of a message: what the setting needs and, if this
            helps, which value is set instead.
        told: Whether the rule applies only to settings that are on the command line; values in
            files and in Python are often meant for other runs as well.
    """

    holds: Callable[[Situation], bool]
    goes_with: Callable[[Situation], str]
    told: bool = False


def _one_of(key: str, *allowed: Any, told: bool = False) -> Rule:
    wanted = " or ".join(map(str, allowed))
    return Rule(
        lambda situation: situation.values[key] in allowed,
        lambda situation: f"only works with {key} = {wanted}, not with {situation.values[key]}",
        told,
    )


def _given(key: str) -> Rule:
    return Rule(
        lambda situation: situation.values[key] is not None,
        lambda situation: f"needs {key} as well",
    )


def _above(least: float, *keys: str) -> Rule:
    """Returns a rule by which at least one of the settings has to exceed a value."""
    wanted = " or ".join(keys)
    return Rule(
        lambda situation: any(situation.values[key] > least for key in keys),
        lambda situation: f"only works with {wanted} above {least:g}",
    )


def _from(words: str, *kinds: str) -> Rule:
    def there(situation: Situation) -> str:
        (kind, *others) = sorted(situation.kinds())
        path = situation.values["data.path"]
        return f"; {path} is {KINDS[kind]}" if path is not None and not others else ""

    return Rule(
        lambda situation: bool(situation.kinds() & set(kinds)),
        lambda situation: f"only works with {words}{there(situation)}",
    )


def _random_split() -> tuple[Rule, ...]:
    return (
        Rule(
            lambda situation: situation.values["data.split"] != "given",
            lambda situation: "only works with data.split = random, not with given",
        ),
        Rule(
            lambda situation: not (situation.pictures and situation.pictures.own_split),
            lambda situation: (
                "only works with a random split, but these pictures are split by "
                f"{situation.pictures and situation.pictures.own_split}; --data.split random "
                "draws one"
            ),
        ),
    )


def _network(key: str) -> Rule:
    return Rule(
        lambda situation: key not in situation.lacks,
        lambda situation: situation.lacks[key],
        told=True,
    )


def _columns(situation: Situation) -> str:
    columns = situation.pictures.columns if situation.pictures else ()
    return (
        f"this is not a column that could split the table (it has {', '.join(columns) or 'none'}); "
        "name one of these, or draw the split with --data.split random"
    )


# The task of each loss that works with only one task.
TASKS = {"focal": "softmax", "binary_cross_entropy": "sigmoid"}
_CYCLES = _one_of("fit.schedule", "one_cycle", "fine_tune", "flat_cosine")
_FOLDERS = _from("a folder or an archive (data.path or data.archive)", "folder", "archive")
_TABLE = _from("a table as data.path", "table")
_AFFINE = _above(0, "augment.p_affine")
_MOVES = {"max_rotate": 0, "max_warp": 0, "min_zoom": 1, "max_zoom": 1}
_LIGHTING = _above(0, "augment.p_lighting")
_FREEZES = _one_of("fit.schedule", "fine_tune", told=True)

RULES: dict[str, tuple[Rule, ...]] = {
    "data.pattern": (_FOLDERS,),
    "data.train": (_FOLDERS,),
    "data.valid": (_FOLDERS,),
    "data.image_column": (_TABLE,),
    "data.label_column": (_TABLE,),
    "data.root": (_from("a table as data.path", "table"),),
    "data.tfds_dir": (_from("data.tfds", "tfds"),),
    "data.sha256": (_from("data.archive", "archive"),),
    "data.split_column": (
        _TABLE,
        _one_of("data.split", "auto", "given"),
        Rule(lambda situation: not situation.pictures or situation.pictures.split_column, _columns),
    ),
    "data.valid_fraction": _random_split(),
    "data.stratify": _random_split(),
    "data.split_seed": _random_split(),
    "augment.flip_vert": (_one_of("augment.do_flip", True),),
    "augment.max_rotate": (_AFFINE,),
    "augment.min_zoom": (_AFFINE,),
    "augment.max_zoom": (_AFFINE,),
    "augment.max_warp": (_AFFINE,),
    "augment.max_lighting": (_LIGHTING,),
    "augment.max_saturation": (_LIGHTING,),
    "augment.max_hue": (_LIGHTING,),
    "augment.p_affine": (
        Rule(
            lambda situation: any(
                situation.values[f"augment.{name}"] != none for name, none in _MOVES.items()
            ),
            lambda situation: "only works with rotation, warp or zoom, such as augment.max_rotate",
        ),
    ),
    "augment.p_lighting": (
        _above(0, "augment.max_lighting", "augment.max_saturation", "augment.max_hue"),
    ),
    "augment.mix_alpha": (_one_of("augment.mix", "mixup", "cutmix"),),
    "model.mean": (_given("model.std"),),
    "model.std": (_given("model.mean"),),
    "model.head": (_network("model.head"),),
    "model.groups": (
        Rule(
            lambda situation: _FREEZES.holds(situation) or situation.values["fit.layer_decay"] < 1,
            lambda situation: f"{_FREEZES.goes_with(situation)}, unless fit.layer_decay is below 1",
            told=True,
        ),
    ),
    "model.train_bn": (
        _network("model.train_bn"),
        _FREEZES,
        Rule(
            lambda situation: situation.values["fit.freeze_epochs"] > 0,
            lambda situation: "only works with fit.freeze_epochs above 0",
            told=True,
        ),
    ),
    "model.threshold": (
        Rule(_one_of("model.task", "sigmoid").holds, lambda _: "needs model.task = sigmoid too"),
    ),
    "model.bn": (
        _network("model.bn"),
        Rule(
            lambda situation: not situation.devices or situation.devices != (1, 1),
            lambda situation: "only works with several devices, but there is only one",
            told=True,
        ),
    ),
    "fit.pct_start": (_CYCLES,),
    "fit.div": (_one_of("fit.schedule", "one_cycle", "fine_tune", "triangular"),),
    "fit.div_final": (_CYCLES,),
    "fit.moms": (
        Rule(
            lambda situation: (
                situation.values["fit.schedule"] in ("one_cycle", "fine_tune")
                or len(set(situation.values["fit.moms"])) == 1
            ),
            lambda situation: (
                "only works with fit.schedule = one_cycle or fine_tune; the momentum of "
                f"{situation.values['fit.schedule']} is constant, so all three must be equal"
            ),
        ),
    ),
    "fit.freeze_epochs": (_one_of("fit.schedule", "fine_tune"),),
    "fit.lr_mult": (_one_of("fit.schedule", "fine_tune"), _one_of("fit.layer_decay", 1)),
    "fit.cycle_epochs": (_one_of("fit.schedule", "triangular", "sgdr"),),
    "fit.loss": (
        Rule(
            lambda situation: (
                TASKS.get(situation.values["fit.loss"], situation.values["model.task"])
                == situation.values["model.task"]
            ),
            lambda situation: (
                f"only works with model.task = {TASKS[situation.values['fit.loss']]}, not with "
                f"{situation.values['model.task']}"
            ),
        ),
    ),
    "fit.label_smoothing": (
        _one_of("fit.loss", "cross_entropy"),
        _one_of("model.task", "softmax"),
    ),
    "fit.gamma": (_one_of("fit.loss", "focal"),),
    "fit.shard_optimizer": (
        Rule(
            lambda situation: not situation.devices or situation.devices[1] > 1,
            lambda situation: "only works with several devices per process, but there is one",
            told=True,
        ),
    ),
}


# Values with which a setting changes nothing, so that they are accepted in every situation.
NEUTRAL = {
    "data.stratify": False,
    "augment.flip_vert": False,
    "augment.max_rotate": 0,
    "augment.min_zoom": 1,
    "augment.max_zoom": 1,
    "augment.max_warp": 0,
    "augment.max_lighting": 0,
    "augment.max_saturation": 0,
    "augment.max_hue": 0,
    "augment.p_affine": 0,
    "augment.p_lighting": 0,
    "model.train_bn": True,
    "model.bn": "global",
    "fit.freeze_epochs": 0,
    "fit.label_smoothing": 0,
    "fit.shard_optimizer": False,
}


def idle(
    situation: Situation,
    defaults_of: Callable[[str], Container[Any]],
    named: Container[str] = (),
) -> dict[str, str]:
    """Returns the given settings that have no effect, each with a line that says why.

    A setting counts as given if it is on the command line. For a rule that is not `told`, it also
    counts as given if its value is not a default.

    Args:
        situation: What is known about the run.
        defaults_of: Function from a setting to the values that it may have without being given.
        named: Dotted names of the settings that are on the command line.

    Example:
        >>> values = {"fit.loss": "focal", "fit.gamma": 3.0, "fit.label_smoothing": 0.1}
        >>> idle(Situation(values), lambda key: [0.0])  # doctest: +ELLIPSIS
        {'fit.label_smoothing': 'fit.label_smoothing = 0.1: only works with ..., not with focal'}
    """
    found = {}
    for key in RULES.keys() & situation.values.keys():
        value = situation.values[key]
        if key in NEUTRAL and value == NEUTRAL[key]:
            continue
        changed = value not in defaults_of(key)
        for rule in RULES[key]:
            given = key in named or (changed and not rule.told)
            if given and not _holds(rule, situation):
                shown = list(value) if isinstance(value, tuple) else value
                found[key] = f"{key} = {shown}: {rule.goes_with(situation)}"
                break
    return dict(sorted(found.items()))


def _holds(rule: Rule, situation: Situation) -> bool:
    try:
        return rule.holds(situation)
    except KeyError:
        # If only a section is known, a setting that the rule depends on may be missing.
        return True
