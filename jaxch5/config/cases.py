"""Lists the cases in which settings have other defaults, such as fine-tuning or CutMix."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import ceil
from typing import Any, NamedTuple

from jaxch5.config.defaults import default_of
from jaxch5.framing import MAX_SIDE, height_and_width, parse_size

# Settings that say where pictures come from; without any of them, the digits are used.
SOURCES = ("path", "tfds", "archive")


class Case(NamedTuple):
    """Describes a case in which some settings have other defaults.

    Attributes:
        words: Description of the case, as `--help` shows it.
        holds: Function that tells whether the case applies; its argument is a function that takes a
            setting's dotted name and returns the setting's value.
        defaults: Defaults of the settings in this case, keyed by their dotted names.
    """

    words: str
    holds: Callable[[Callable[[str], Any]], Any]
    defaults: dict[str, Any]


def _own_pictures(get: Callable[[str], Any]) -> bool:
    return any(get(f"data.{name}") is not None for name in SOURCES)


def _is_vit(get: Callable[[str], Any]) -> bool:
    return str(get("model.arch")).startswith("vit_")


_augment = partial(default_of, "augmentation.policy:aug_transforms")
_fine_tune = partial(default_of, "optim.schedule:fine_tune_schedule")
# The settings' own defaults suit the digits, which are tiny, and which become other characters when
# they are mirrored or cut.
CASES = (
    Case(
        "for your own pictures with a ViT",
        lambda get: _own_pictures(get) and _is_vit(get),
        # The position embeddings of most weights were learned for this size.
        {"data.size": 224},
    ),
    Case(
        "for your own pictures, except with a ViT",
        lambda get: _own_pictures(get) and not _is_vit(get),
        {"data.size": 128},
    ),
    Case(
        "for your own pictures",
        _own_pictures,
        {
            "data.presize": 192,
            "data.batch_size": 32,
            "fit.epochs": None,
            "augment.do_flip": _augment("do_flip"),
            "augment.max_lighting": _augment("max_lighting"),
            "augment.max_warp": _augment("max_warp"),
            "augment.min_scale": default_of("augmentation.policy", "MIN_SCALE"),
            "model.weights": default_of("learner:vision_learner", "weights"),
            "model.head": default_of("training.recipe", "KIND_OF_HEAD"),
        },
    ),
    Case(
        "if there are weights to begin from",
        lambda get: get("model.weights") != "none",
        {"fit.schedule": "fine_tune"},
    ),
    Case(
        "with fine_tune",
        lambda get: get("fit.schedule") == "fine_tune",
        {"fit.pct_start": _fine_tune("pct_start"), "fit.div": _fine_tune("div")},
    ),
    Case(
        "with flat_cosine",
        lambda get: get("fit.schedule") == "flat_cosine",
        {"fit.pct_start": default_of("optim.schedule:flat_cosine", "pct_start")},
    ),
    Case(
        "with binary_cross_entropy",
        lambda get: get("fit.loss") == "binary_cross_entropy",
        {"model.task": "sigmoid"},
    ),
    Case(
        "with cutmix",
        lambda get: get("augment.mix") == "cutmix",
        {"augment.mix_alpha": default_of("augmentation.mixing:cutmix", "alpha")},
    ),
)


def value_of(key: str, given: Mapping[str, Any], own_default: Callable[[str], Any]) -> Any:
    """Returns what was given for a setting, or else its default in the first case that holds.

    Args:
        key: Dotted name of the setting.
        given: Values of the settings that were given, keyed by dotted names.
        own_default: Function from a setting to the default that it has if no case gives it another.

    Example:
        >>> own = {"fit.schedule": "one_cycle", "fit.div": 25.0}
        >>> value_of("fit.div", {"fit.schedule": "fine_tune"}, own.get)
        5.0
        >>> value_of("fit.div", {"data.path": "photos"}, own.get)  # fine_tune is the default then
        5.0
        >>> own = {"data.presize": 40, "data.size": 32}
        >>> value_of("data.presize", {"data.path": "photos", "data.size": 224}, own.get)
        336
    """
    if key in given:
        return given[key]
    get = partial(value_of, given=given, own_default=own_default)
    for case in CASES:
        if key in case.defaults and case.holds(get):
            default = case.defaults[key]
            break
    else:
        default = own_default(key)
    return _with_room(default, get) if key == "data.presize" else default


def _with_room(presize: int, get: Callable[[str], Any]) -> int:
    """Returns the default presize, or a larger one if the size of the network's input needs it."""
    ratio = 1.5 if _own_pictures(get) else 1.25
    try:
        longest = max(height_and_width(parse_size(get("data.size"))))
    except ValueError:  # the validation of the size says what is wrong
        return presize
    return max(presize, min(ceil(ratio * longest), MAX_SIDE))


def chosen(values: Mapping[str, Any], own_default: Callable[[str], Any]) -> dict[str, Any]:
    """Returns the settings whose values differ from the defaults that they would otherwise have.

    Args:
        values: Values of all settings, keyed by dotted names.
        own_default: As in `value_of`.

    Example:
        >>> own = {"model.weights": "none", "fit.schedule": "one_cycle", "fit.div": 25.0}
        >>> chosen({"fit.schedule": "fine_tune", "fit.div": 5.0}, own.get)
        {'fit.schedule': 'fine_tune'}
    """
    return {
        key: value
        for key, value in values.items()
        if value != value_of(key, {k: v for k, v in values.items() if k != key}, own_default)
    }
