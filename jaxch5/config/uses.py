"""Lists which settings each command reads, and which of them its `--help` shows."""

from __future__ import annotations

from typing import NamedTuple


class Use(NamedTuple):
    """Tells which settings a command uses.

    Attributes:
        reads: Dotted names of settings, or of sections, which end in a dot; "" stands for all
            settings. A name after a dash is excluded. The last name that matches a setting decides.
        often: Settings that `--help` shows beside the command's own options.
    """

    reads: tuple[str, ...] = ("",)
    often: tuple[str, ...] = ()

    def of(self, key: str) -> bool:
        """Checks whether the command reads a setting.

        Example:
            >>> use = Use(("data.", "-data.size"))
            >>> use.of("data.path"), use.of("data.size"), use.of("seed")
            (True, False, False)
        """
        found = False
        for entry in self.reads:
            name = entry.removeprefix("-")
            if key == name or (name[-1:] in ("", ".") and key.startswith(name)):
                found = not entry.startswith("-")
        return found


_FOUND = (
    *("data.path", "data.pattern", "data.train", "data.valid"),
    *("data.image_column", "data.label_column", "data.root"),
    *("data.tfds", "data.tfds_dir", "data.archive", "data.sha256"),
    *("data.range", "data.max_pixels"),
)
_OWN_SPLIT = ("data.split", "data.split_column")
_SPLIT = (*_OWN_SPLIT, "data.valid_fraction", "data.stratify", "data.split_seed")
_OFTEN = ("data.batch_size", "model.arch", "model.weights")
_TRAINED = ("model.arch", "model.task", "model.threshold")
_EVALUATION = ("-data.crop_pct", "-data.interpolation")
_WATCHING = ("-checkpoint.", "-log", "-profile")
_SCHEDULE = (
    *("-fit.epochs", "-fit.lr", "-fit.pct_start", "-fit.div", "-fit.div_final", "-fit.moms"),
    *("-fit.freeze_epochs", "-fit.lr_mult", "-fit.cycle_epochs"),
    *("-fit.metrics", "-fit.keep_best", "-fit.best", "-hooks"),
)

USES = {
    "verify": Use((*_FOUND, *_SPLIT), ("data.pattern", "data.valid_fraction", "data.range")),
    "show": Use(
        ("data.", *_EVALUATION, "augment.", "-augment.mix", "-augment.mix_alpha", "seed"),
        ("data.pattern", "data.size", "data.method", "augment.do_flip", "augment.min_scale"),
    ),
    "lr_find": Use(
        ("", *_EVALUATION, *_WATCHING, *_SCHEDULE),
        ("data.pattern", "data.size", *_OFTEN),
    ),
    "train": Use(often=("data.pattern", "data.size", *_OFTEN, "fit.epochs", "fit.lr")),
    "runs": Use(()),
    "evaluate": Use(
        (*_FOUND, "data.on_bad", "data.batch_size", *_TRAINED), ("data.path", "data.on_bad")
    ),
    "suspects": Use(
        ("", *_WATCHING, "-fit.keep_best", "-fit.best", "-hooks"), ("data.path", "model.weights")
    ),
    "clean": Use(often=("data.path",)),
    "predict": Use(("data.range", "data.max_pixels", *_TRAINED), ("model.threshold",)),
    "demo": Use(("data.range", "data.max_pixels", *_TRAINED), ("model.threshold",)),
    "export": Use(_TRAINED, ("model.threshold",)),
    "pack": Use(
        (*_FOUND, *_OWN_SPLIT, "data.on_bad", "data.presize", "data.method", "seed"),
        ("data.pattern", "data.presize", "data.method", "data.on_bad"),
    ),
    "transfer_profile": Use(("", *_WATCHING), ("model.arch", "model.weights", "fit.epochs")),
    "completion": Use(()),
}
