"""Finds the size at which weights were tested, for `--data.size weights`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxch5.config.cases import value_of
from jaxch5.config.section import own_default
from jaxch5.config.toml import deep_update, flat, without
from jaxch5.config.uses import USES, Use
from jaxch5.errors import ConfigError, WeightsError
from jaxch5.framing import Size, size_text
from jaxch5.util.address import expanded, is_on_hub

# The value of `data.size` that stands for the size at which the weights were tested.
WEIGHTS = "weights"


def with_tested_size(
    on_file: dict[str, Any], given: dict[str, Any], prog: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns settings in which the size that the weights were tested at replaces "weights".

    Args:
        on_file: Values of a configuration file, nested as in the configuration.
        given: Values of the command line, which take precedence.
        prog: Command as it is typed.

    Raises:
        ConfigError: There are no weights, or they do not state a size, or the command does not read
            which weights are meant.
        WeightsError: The weights cannot be fetched, or what is stated about them cannot be read.

    Example:
        >>> given = {"data": {"size": "96"}}
        >>> with_tested_size({"data": {"size": "weights"}}, given, "jaxch5 train")
        ({'data': {}}, {'data': {'size': '96'}})
    """
    sizes = [flat(values).get("data.size") for values in (on_file, given)]
    if WEIGHTS not in sizes:
        return on_file, given
    use = USES.get(prog.rpartition(" ")[2], Use())
    values = flat(without(deep_update(on_file, given), ["data.size"]))
    # The default presize depends on the size, so a command that reads only the presize needs the
    # size too.
    is_named = use.of("model.weights") or "model.weights" in values
    for_presize = use.of("data.presize") and "data.presize" not in values and is_named
    is_read = use.of("data.size") or for_presize
    if sizes[1] not in (None, WEIGHTS) or not is_read:
        return without(on_file, ["data.size"]), given
    weights, arch = (value_of(f"model.{name}", values, own_default) for name in ("weights", "arch"))
    if not is_named:
        size, reason = None, f"{prog} does not know which weights are meant"
    else:
        size, reason = _tested_size(weights, arch)
    if size is None:
        raise ConfigError(f"data.size = weights: {reason}; choose a number, as in --data.size 224")
    found = {"data": {"size": size_text(size)}}
    if sizes[1] == WEIGHTS:
        return on_file, deep_update(given, found)
    return deep_update(on_file, found), given


def _tested_size(weights: str, arch: str) -> tuple[Size | None, str]:
    """Returns the size that is stated for weights, or None and the reason why it is not known.

    Only what is stated is read: reading an array would start jax before the process is prepared.
    """
    from jaxch5.models.hub import fetch, place_of
    from jaxch5.models.pretrained import stated
    from jaxch5.models.registry import spec_of
    from jaxch5.run.transfer import last_or_best, size_of_run, stands_for_run

    if weights == "none":
        return None, "there are no weights (--model.weights)"
    spec, is_auto = spec_of(arch), weights == "auto"
    unknown = f"the size at which {weights} was tested is not known"
    if is_auto or is_on_hub(weights):
        place = place_of("imagenet" if is_auto else weights, spec)
        try:
            file = fetch(place)
        except WeightsError as error:
            if not is_auto:
                raise
            return None, f"no ImageNet weights: {error}"
        return stated(file, spec, one=True, hub=place.known).size, unknown
    path = expanded(Path(weights))
    if not stands_for_run(path):
        return stated(path, spec).size, unknown
    about, *_ = last_or_best(path, spec.name, with_variables=False)
    return size_of_run(about), unknown
