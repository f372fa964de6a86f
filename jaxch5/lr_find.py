"""`jaxch5 lr_find`: suggests a learning rate."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from jaxch5.cli import PicturesOptions, drawable, run, save_figure
from jaxch5.config.defaults import default_of
from jaxch5.errors import TrainingError
from jaxch5.util.limits import LIMITS
from jaxch5.util.seeds import check_seed
from jaxch5.util.text import print_line

_default = partial(default_of, "training.lr_finder:find_lr")


class LrFindOptions(PicturesOptions):
    """Train a little at ever higher learning rates, draw the loss, and suggest a rate."""

    out: Path = Field(Path("lr_find.png"), description="where to save the figure (PNG, PDF or SVG)")
    start_lr: float = Field(_default("start_lr"), **LIMITS["start_lr"], description="first rate")
    end_lr: float = Field(
        _default("end_lr"),
        **LIMITS["end_lr"],
        description="the sweep ends just below this rate",
    )
    num_it: int = Field(
        _default("num_it"), ge=20, le=100_000, description="number of steps of a sweep"
    )
    repeats: int = Field(1, ge=1, le=100, description="number of sweeps, each with its own seed")

    _out = field_validator("out")(drawable)


def lr_find(options: LrFindOptions) -> dict[str, Any]:
    """Prints the suggestion of each rule and writes the figure; returns the suggestions."""
    from jaxch5.config.building import load_data
    from jaxch5.configured import learner_of, unfreeze_as_configured
    from jaxch5.optim.suggest import BOLD, RECOMMENDED, RULES
    from jaxch5.plots.training import plot_lr_find
    from jaxch5.training.lr_finder import sweep_rates
    from jaxch5.training.process import prepare_process

    prepare_process()
    console = options.console()

    def say(line: str) -> None:
        print_line(console, line)

    sweep_rates(options.start_lr, options.end_lr, options.num_it)
    # The data is loaded first, so that missing pictures are reported before the weights are sought.
    settings = options.settings()
    check_seed(settings.seed + options.repeats - 1, "seed + repeats - 1")
    data = load_data(settings)
    config = options.settings_with_weights(say)
    first = learner_of(data, config, say)
    sweeps, suggested, failed = [], [], ""
    for repeat in range(options.repeats):
        learn = first
        if repeat:
            learn = first.again(config.seed + repeat)
            # With pretrained weights, all layers of the copy but its head are frozen again.
            unfreeze_as_configured(learn, config.fit)
        try:
            found = learn.lr_find(options.start_lr, options.end_lr, options.num_it, tuple(RULES))
        except TrainingError as error:
            if options.repeats == 1:
                raise
            failed = str(error)
            say(f"sweep {repeat + 1} of {options.repeats} is left out: {failed}")
            continue
        suggested.append(found._asdict())
        assert learn.sweep is not None
        sweeps.append((learn.sweep.lrs, learn.sweep.smooth))
    if not suggested:
        raise TrainingError(failed)
    middle = {}
    for name in RULES:
        rates = sorted(rates[name] for rates in suggested)
        middle[name] = rates[len(rates) // 2]
        spread = f"  ({rates[0]:.1e} to {rates[-1]:.1e})" if len(rates) > 1 else ""
        chosen = f"  recommended: --fit.lr {middle[name]:.1e}" if name == RECOMMENDED else ""
        say(f"{name:<14} {middle[name]:.1e}{spread}{chosen}")
    recommended = middle[RECOMMENDED]
    save_figure(plot_lr_find(sweeps, suggested[0], (recommended, middle[BOLD])), options.out)
    say(f"figure         {options.out}")
    return {"suggested": suggested, "recommended": recommended, "figure": str(options.out)}


def main() -> int:
    return run(lr_find, LrFindOptions, "jaxch5 lr_find")


if __name__ == "__main__":
    sys.exit(main())
