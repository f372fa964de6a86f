"""Defines the learner, the interface to training for notebooks and for the commands."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import numpy as np
from jaxtyping import Float, Int, PyTree

from jaxch5.data.block import Data
from jaxch5.data.picture import Picture
from jaxch5.models.registry import create_model, spec_of
from jaxch5.models.spec import ModelSpec, Normalization
from jaxch5.optim import schedule
from jaxch5.optim.schedule import Schedule
from jaxch5.optim.suggest import BOLD, RECOMMENDED, check_sweep, suggest_lr
from jaxch5.plots.training import plot_lr_find, show_in_notebook
from jaxch5.results.interpretation import Interpretation, interpretation_of
from jaxch5.results.predictor import Prediction, Predictor
from jaxch5.run.transfer import describe, pretrained_of
from jaxch5.trainer import Trainer
from jaxch5.training.events import Hook
from jaxch5.training.freezing import summarize_model
from jaxch5.training.loop import evaluate
from jaxch5.training.lr_finder import END_LR, NUM_IT, START_LR, find_lr, sweep_rates
from jaxch5.training.mesh import on_one_device
from jaxch5.training.plan import UNTRAINED, plan_at_rate, plan_of_one_cycle, plans_of_fine_tune
from jaxch5.training.precision import dtype_of, precision_of
from jaxch5.training.recipe import KIND_OF_HEAD, Recipe, without_effect
from jaxch5.training.step import make_drawn_eval_step
from jaxch5.training.tta import compile_looks, drawn_looks
from jaxch5.util.address import learners_file
from jaxch5.util.text import COMPILING, plain_console, print_line, working
from jaxch5.view import chosen

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Learner(Trainer):
    """Trains a model on data. `vision_learner` makes a learner; `Trainer` lists the attributes.

    Example:
        >>> import jaxch5 as jx
        >>> class Tiny(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x, train):
        ...         return nn.Dense(2, name="head")(x.mean((1, 2)))
        >>> pictures = [np.full((8, 8), 255 * (item % 2), np.uint8) for item in range(32)]
        >>> source = jx.from_arrays(pictures, ["dark", "bright"] * 16, ["dark", "bright"])
        >>> block = jx.DataBlock(source, jx.random_split(), presize=8, size=8, augment=None)
        >>> data = block.load(batch_size=8)
        >>> learn = vision_learner(data, Tiny())
        >>> 1e-7 < learn.lr_find(num_it=30).valley < 10
        True
        >>> learn.fit_one_cycle(4, lr_max=0.2)  # doctest: +ELLIPSIS
        epoch  train_loss  valid_loss  accuracy  error_rate   time  images/s
        ...
        >>> learn.validate()["accuracy"], learn.interpret().most_confused()
        (1.0, [])
        >>> len(learn.recorder.losses), learn.predict(np.zeros((8, 8, 3), np.uint8)).label
        (12, 'dark')
    """

    def freeze(self) -> None:
        """Freezes all layers but the head (and, with `train_bn`, batch norms); see `freeze_to`."""
        self.freeze_to(-1)

    def unfreeze(self) -> None:
        """Makes all layers trainable; see `freeze_to`."""
        self.freeze_to(0)

    def validate(self) -> dict[str, float]:
        """Computes `valid_loss` and the metrics of the task and recipe on the validation set."""
        recipe, of = self.recipe, (self.state, self.data.valid, self._steps.evaluate)
        return evaluate(*of, recipe.objective, recipe.metrics, task=recipe.task)

    def summary(self) -> None:
        """Prints how many parameters each group of layers has, and how many of them are trained."""
        how = self.groups, self._frozen.paths, self.recipe.layer_decay
        for line in summarize_model(self._shapes["params"], *how):
            print_line(self.console, line)

    def fit(
        self, epochs: int, lr: float | slice | Schedule = 1e-3, momentum: float | Schedule = 0.95
    ) -> None:
        """Trains with any schedule.

        Args:
            epochs: Passes over the training set.
            lr: One rate throughout, a slice of rates (see `group_rates`), or a function from the
                step to the rate, such as one from `flat_cosine`, `triangular` or `sgdr`.
            momentum: One momentum throughout, or a function from the step to the momentum.
        """
        groups, layer_decay = len(self.groups.names), self.recipe.layer_decay
        self._fit([plan_at_rate(epochs, lr, momentum, groups, layer_decay)])

    def fit_one_cycle(
        self,
        epochs: int,
        lr_max: float | slice = 1e-3,
        div: float = schedule.DIV,
        div_final: float = schedule.DIV_FINAL,
        pct_start: float = schedule.PCT_START,
        moms: tuple[float, float, float] = schedule.MOMS,
    ) -> None:
        """Trains with one cycle of learning rate and momentum (Smith and Topin, 1708.07120).

        Args:
            epochs: Passes over the training set.
            lr_max: Highest rate, or a slice from which each group gets its own; see `group_rates`.
            div, div_final, pct_start, moms: See `one_cycle` and `one_cycle_momentum`.
        """
        steps, groups = len(self.data.train), len(self.groups.names)
        shape = div, div_final, pct_start, moms, self.recipe.layer_decay
        self._fit([plan_of_one_cycle(epochs, steps, groups, lr_max, *shape)])

    def fine_tune(
        self,
        epochs: int,
        base_lr: float = schedule.BASE_LR,
        freeze_epochs: int | None = None,
        lr_mult: float | None = None,
        pct_start: float | None = None,
        div: float | None = None,
        div_final: float = schedule.DIV_FINAL,
        moms: tuple[float, float, float] = schedule.MOMS,
    ) -> None:
        """Trains in two phases, exactly as fastai's `fine_tune` does in fastbook's chapter 5.

        First, only the new head (and the batch norms, with `train_bn`) trains for `freeze_epochs`,
        in a cycle that takes most of its steps to reach `base_lr`. Then the optimizer's moments are
        cleared, and all layers train for `epochs` in a second cycle. Its highest rates are half of
        `base_lr` for the head, `base_lr / 2 / lr_mult` for the earliest group, and values spaced
        geometrically in between. See `fine_tune_schedule` for each step's rates and the defaults.

        If the body has not been trained, freezing it would be of no use: all layers then train in
        one cycle, as with `fit_one_cycle`, unless `freeze_epochs` or `lr_mult` is given.

        Args:
            epochs: Passes over the training set in the second phase, or in the one cycle.
            base_lr: Highest rate of the first phase; `lr_find` on the frozen learner suggests one.
            freeze_epochs: Passes in the first phase; 0 leaves this phase out.
            lr_mult: Ratio of the head's rate to the earliest group's, in the second phase.
            pct_start, div: Arguments of the second phase's `one_cycle`.
            div_final, moms: Arguments of both cycles; see `one_cycle` and `one_cycle_momentum`.
        """
        phases: dict[str, Any] = {"freeze_epochs": freeze_epochs, "lr_mult": lr_mult}
        shape: dict[str, Any] = {"pct_start": pct_start, "div": div, "div_final": div_final}
        phases, shape = ({k: v for k, v in one.items() if v is not None} for one in (phases, shape))
        if not phases and self.is_untrained:
            print_line(self.console, UNTRAINED)
            return self.fit_one_cycle(epochs, base_lr, moms=moms, **shape)
        shape.update(moms=moms, layer_decay=self.recipe.layer_decay)
        of = epochs, len(self.data.train), len(self.groups.names), base_lr
        self._fit(plans_of_fine_tune(*of, **phases | shape))

    def lr_find(
        self,
        start_lr: float = START_LR,
        end_lr: float = END_LR,
        num_it: int = NUM_IT,
        suggest_funcs: Sequence[str] = (RECOMMENDED,),
        show_plot: bool = True,
    ) -> Any:
        """Suggests rates by training a little at ever higher rates; the state is left unchanged.

        It returns a named tuple with each rule's rate (such as `learn.lr_find().valley`), and keeps
        the sweep in `self.sweep`. In a notebook, it draws the sweep and the recommended rate.

        Args:
            start_lr, end_lr: First rate, and the rate that would follow the last one.
            num_it: Number of steps.
            suggest_funcs: Rules of `suggest_lr`: valley, slide, minimum, steep, last_decrease.
            show_plot: Whether a notebook draws the sweep.

        Raises:
            ConfigError: A rule is unknown, rates are not positive and rising, or steps are too few.
            TrainingError: The loss is not finite from the start, or explodes too soon to judge.
        """
        check_sweep(num_it, suggest_funcs)
        sweep_rates(start_lr, end_lr, num_it)
        how = self._key, start_lr, end_lr, num_it, self.recipe.layer_decay, self.console
        with working(self.console, COMPILING):
            step = self._steps.train
        self.sweep = find_lr(self.state, self.data, step, *how)
        rates = suggest_lr(self.sweep.lrs, self.sweep.smooth, num_it)
        chosen = {name: rates[name] for name in suggest_funcs}
        drawn = [(self.sweep.lrs, self.sweep.smooth)], chosen, (rates[RECOMMENDED], rates[BOLD])
        if show_plot:
            show_in_notebook(lambda: plot_lr_find(*drawn))
        return namedtuple("SuggestedRates", chosen)(**chosen)

    def interpret(self) -> Interpretation:
        """Interprets the model on the validation set: confusions, losses, calibration.

        Raises:
            DataError: A picture cannot be read.
        """
        source, items = self.data.source, self.data.valid.items
        shown: tuple[Any, ...] = self.recipe.task, self.data.framing, self.data.size
        return interpretation_of(source, items, *self.get_preds(), *shown)

    def show_results(self, nrows: int = 3, ncols: int = 3, seed: int = 0) -> Figure:
        """Draws some validation pictures, each with the prediction and whether it is right.

        Args:
            nrows, ncols: Shape of the grid.
            seed: Seed for the choice of pictures.

        Raises:
            DataError: A picture cannot be read.
        """
        return self.interpret().plot_results(nrows, ncols, seed)

    def predictor(self) -> Predictor:
        """Returns the classifier in its current state, without its data."""
        # The variables are copied, because the next step of training consumes the state.
        return self._classifier.with_variables(on_one_device(self.state.variables, copies=True))

    def predict(self, picture: Picture) -> Prediction:
        """Classifies one picture; for many, `learn.predictor().predict_many` is faster.

        Args:
            picture: Picture in any form that `Predictor.predict` takes.

        Raises:
            DataError: The picture cannot be read.
        """
        # Nothing is copied: the state stays valid for as long as this takes.
        return self._classifier.with_variables(on_one_device(self.state.variables)).predict(picture)

    def export(self, path: str | Path, format: str = "safetensors") -> None:
        """Writes the classifier as one file, or as a folder for timm.

        Args:
            path: File or folder to write.
            format: "safetensors", "fastai", "timm", "onnx", "stablehlo" or "learner"; see
                `jaxch5.results.artifacts`.

        Raises:
            ConfigError: There is no such format, or it does not suit the network or the path.
            CheckpointError: The file cannot be written.
        """
        from jaxch5.results.artifacts import write_artifact

        write_artifact(self.predictor(), Path(path), format)

    def save(self, path: str | Path) -> None:
        """Writes one file that `load_learner` reads, as `export` does in the format "learner".

        Args:
            path: File to write; a name without extension gets `.safetensors`, as in `load_learner`.

        Raises:
            ConfigError: The path has another extension, or is a folder.
            CheckpointError: The file cannot be written.
        """
        self.export(learners_file(path), "learner")

    def tta(
        self, n: int = 4
    ) -> tuple[Float[np.ndarray, "items classes"], Int[np.ndarray, "items"]]:
        """Predicts the validation set with test-time augmentation (Krizhevsky et al., 2012).

        It returns what `get_preds` does, averaged over the plain pictures and `n` augmented draws.

        Args:
            n: Number of augmented draws of each picture; none are made without augmentation.

        Raises:
            ConfigError: `n` is below 0.
        """
        n = min(n, 0) if self.data.augment is None else n
        how = self.data.augment, self.data.size, self.normalization
        if how not in self._looks:
            step = make_drawn_eval_step(self.model, *how, self.mesh)
            self._looks[how] = compile_looks(step, self.state)
        of = self.state, self.data.valid, self._key, n, self.recipe.task
        total, labels = self.get_preds()
        return sum(drawn_looks(self._looks[how], *of), total) / (n + 1), labels


def vision_learner(
    data: Data,
    arch: str | ModelSpec | nn.Module,
    weights: str | Path | Mapping[str, PyTree] = "auto",
    *values: Any,
    recipe: Recipe | None = None,
    seed: int = 0,
    normalization: Normalization | None = None,
    crop_pct: float | None = None,
    interpolation: str | None = None,
    say: Callable[[str], None] | None = None,
    hooks: Sequence[Hook] = (),
    **overrides: Any,
) -> Learner:
    """Makes a learner for pictures; with pretrained weights, all layers but the head begin frozen.

    Args:
        data: What `DataBlock.load` returns.
        arch: Name of an architecture; a `ModelSpec` of your own, or its import path; or a linen or
            nnx module of your own (see `create_model`), for which no "imagenet" weights exist.
        weights: "imagenet"; "none"; "auto", which is "imagenet" if it can be fetched, else "none";
            what `load_weights` takes; or variables such as those from `module.init`.
        values, overrides: Values of the recipe's first fields, in order, and of any by name.
        recipe: How the network is made and trained; None stands for `Recipe()`.
        seed: Seed for the initial weights and for every draw in training.
        normalization: Mean and standard deviation of the colours; None uses those that belong to
            the weights or, without weights, to the architecture.
        crop_pct, interpolation: See `jaxch5.view.View`; by default, those used to test the weights.
        say: Function that takes lines about the weights and the recipe; None prints them.
        hooks: Functions to call with each event: `Begin`, `Ready`, `Step`, `Epoch` and `End`.

    Raises:
        ConfigError: There is no such architecture or field, or a value or the seed is invalid.
        WeightsError: The weights are not available, or do not fit the network.

    Example:
        >>> import jaxch5 as jx
        >>> class Tiny(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x, train):
        ...         return nn.Dense(10, name="head")(x.mean((1, 2)))
        >>> data = jx.DataBlock(jx.digits(), jx.random_split(), presize=8, size=8).load(64)
        >>> learn = vision_learner(data, Tiny(), recipe=Recipe(wd=0.1), metrics=("top_5",))
        >>> learn.groups.names, learn.recipe.wd
        (('all',), 0.1)
    """
    view = chosen(crop_pct, interpolation, data.framing)
    ours = ("weights", "recipe", "seed", "normalization", *view, "say", "hooks")
    recipe = (recipe or Recipe()).replaced(*values, also=ours, **overrides)
    spec = spec_of(arch) if isinstance(arch, str | ModelSpec) else None
    head = recipe.head or (KIND_OF_HEAD if spec and KIND_OF_HEAD in spec.heads else None)
    how = head, dtype_of(recipe.precision), recipe.remat, recipe.drop_path
    model = create_model(spec or arch, len(data.classes), *how)
    say = say or (lambda line: print_line(plain_console(), line))
    found = pretrained_of(weights, spec or arch, normalization, say, view)
    learn = Learner(data, model, recipe, found, seed, normalization, hooks, spec, view)
    learn.precision = recipe.precision if spec else precision_of(arch)
    if found:
        say(describe(found, learn._fate))
    for line in without_effect(recipe, learn.spec.name, learn.has_batch_norms, spec or arch):
        say(line)
    return learn
