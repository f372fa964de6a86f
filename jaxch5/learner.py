"""The learner: data, model and state in one hand, for notebooks and for the commands.

It holds a state and calls functions; what is computed is in `jaxch5.training`.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property, partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Float, Int
from rich.console import Console

from jaxch5.augmentation.mixing import MIXERS
from jaxch5.config import Config
from jaxch5.data.block import Data
from jaxch5.errors import ConfigError
from jaxch5.losses import cross_entropy
from jaxch5.models.resnet import create_model
from jaxch5.optim.optimizer import make_optimizer
from jaxch5.optim.schedule import one_cycle, one_cycle_momentum
from jaxch5.optim.suggest import RULES, suggest_lr
from jaxch5.training.checkpoint import Checkpoints
from jaxch5.training.compiler import compiler_options
from jaxch5.training.loop import Epoch, Plan, Step, compile_steps, evaluate, fit, predict
from jaxch5.training.lr_finder import Sweep, find_lr
from jaxch5.training.progress import show_progress
from jaxch5.training.rundir import Record, RunDir, write_metrics
from jaxch5.training.state import TrainState, init_state
from jaxch5.training.step import (
    EvalStep,
    Loss,
    Mixer,
    TrainStep,
    make_drawn_eval_step,
    make_eval_step,
    make_train_step,
)


class Learner:
    """A model in training on data; made by `vision_learner`.

    Attributes:
        data: the pictures.
        model: a linen module.
        state: weights, statistics and optimizer, as of the last step.
        records: of each epoch done: losses and metrics as fractions of 1, seconds, and pictures a
            second of training.
        sweep: of the last `lr_find`: rates, losses and smooth losses.
    """

    sweep: Sweep | None = None

    def __init__(
        self,
        data: Data,
        model: nn.Module,
        loss: Loss,
        wd: float,
        seed: int,
        mix: Mixer | None = None,
    ) -> None:
        self.data = data
        self.model = model
        self.records: list[Record] = []
        self._loss = loss
        self._mix = mix
        self._optimizer = make_optimizer(wd=wd)
        weights_key, self._key = jax.random.split(jax.random.key(seed))
        self.state: TrainState = init_state(model, self._optimizer, data.size, weights_key)

    @cached_property
    def _steps(self) -> tuple[TrainStep, EvalStep]:
        train_step = make_train_step(
            self.model,
            self._optimizer,
            self._loss,
            self.data.augment,
            self.data.size,
            mix=self._mix,
        )
        eval_step = make_eval_step(self.model, self.data.size)
        return compile_steps(train_step, eval_step, self.state, self.data, self._key)

    def fit_one_cycle(
        self,
        epochs: int,
        lr_max: float = 1e-3,
        div: float = 25.0,
        div_final: float = 1e5,
        pct_start: float = 0.25,
        moms: tuple[float, float, float] = (0.95, 0.85, 0.95),
        console: Console | None = None,
        run: RunDir | None = None,
        save_every_steps: int = 0,
    ) -> None:
        """Trains with one cycle of learning rate and momentum (Smith and Topin, 1708.07120).

        A learner whose state was restored from a checkpoint of the same cycle goes on from there.

        Args:
            epochs: passes over the training set.
            lr_max: highest learning rate.
            div, div_final, pct_start, moms: see `one_cycle` and `one_cycle_momentum`.
            console: where the table and the bar are drawn; None is standard output.
            run: where records and checkpoints are written; None writes nothing.
            save_every_steps: steps between checkpoints within an epoch; 0 saves after epochs only.
        """
        steps = epochs * len(self.data.train)
        plan = Plan(
            epochs=epochs,
            rate=one_cycle(lr_max, steps, pct_start, div, div_final),
            momentum=one_cycle_momentum(steps, pct_start, moms),
        )
        self._fit(plan, console or Console(), run, save_every_steps)

    def lr_find(
        self,
        start_lr: float = 1e-7,
        end_lr: float = 10.0,
        num_it: int = 100,
        suggest_funcs: Sequence[str] = ("valley",),
    ) -> Any:
        """Trains a little at ever higher rates and suggests some; the learner stays as it was.

        The sweep is kept in `self.sweep`; `plot_lr_find` draws it.

        Args:
            start_lr, end_lr: the first rate, and the one that the last comes next to.
            num_it: steps.
            suggest_funcs: any of valley, slide, minimum, steep, last_decrease; see
                `jaxch5.optim.suggest`.

        Returns:
            A named tuple of the suggested rates: `learn.lr_find().valley`.

        Raises:
            ConfigError: there is no such rule, or the rates do not rise.
            TrainingError: the loss exploded before anything could be said.
        """
        for name in suggest_funcs:
            if name not in RULES:
                raise ConfigError(f"suggest_funcs: {name} is none of {', '.join(RULES)}")
        train_step, _ = self._steps
        self.sweep = find_lr(self.state, self.data, train_step, self._key, start_lr, end_lr, num_it)
        rates = suggest_lr(self.sweep.lrs, self.sweep.smooth, num_it)
        chosen = {name: rates[name] for name in suggest_funcs}
        return namedtuple("SuggestedRates", chosen)(**chosen)

    def _fit(self, plan: Plan, console: Console, run: RunDir | None, save_every_steps: int) -> None:
        steps_per_epoch = len(self.data.train)
        events = fit(self.state, self.data, plan, *self._steps, self._loss, self._key)
        with ExitStack() as stack:
            saves = stack.enter_context(Checkpoints(run.checkpoints)) if run else None
            for event in show_progress(events, console, steps_per_epoch, int(self.state.step)):
                self.state = event.state
                match event:
                    case Epoch():
                        self.records.append(event.record)
                        if run and saves:
                            write_metrics(run, self.records)
                            saves.save(self.state, self.records, epoch_done=True)
                    case Step() if saves and save_every_steps:
                        if event.number % save_every_steps == 0 != event.number % steps_per_epoch:
                            saves.save(self.state, self.records, epoch_done=False)

    def restore(self, run: RunDir) -> bool:
        """Takes the state and the records of a run's last checkpoint; False where it has none.

        Raises:
            CheckpointError: the checkpoint cannot be read.
        """
        with Checkpoints(run.checkpoints) as saves:
            saved = saves.restore(self.state)
        if saved is None:
            return False
        self.state, self.records = saved
        write_metrics(run, self.records)
        return True

    def validate(self) -> dict[str, float]:
        """Loss and metrics over the validation set: `valid_loss`, `accuracy`, `error_rate`."""
        _, eval_step = self._steps
        return evaluate(self.state, self.data.valid, eval_step, self._loss)

    def get_preds(self) -> tuple[Float[np.ndarray, "items classes"], Int[np.ndarray, "items"]]:
        """Probabilities and labels of the validation set, in its order."""
        _, eval_step = self._steps
        logits, labels = predict(self.state, self.data.valid, eval_step)
        return jax.device_get(jax.nn.softmax(logits)), labels

    def tta(
        self, n: int = 4
    ) -> tuple[Float[np.ndarray, "items classes"], Int[np.ndarray, "items"]]:
        """Probabilities and labels of the validation set, as `get_preds`, by more than one look.

        The mean of the probabilities of the centre crop and of `n` augmented draws of each
        picture (test-time augmentation, as in Krizhevsky et al., 2012). It takes `n + 1` times as
        long.

        Args:
            n: draws of each picture; 0 is `get_preds`.

        Raises:
            ConfigError: `n` is below 0.
        """
        if n < 0:
            raise ConfigError(f"n = {n}: should be at least 0")
        total, labels = self.get_preds()
        drawn = jax.jit(
            make_drawn_eval_step(self.model, self.data.augment, self.data.size),
            compiler_options=compiler_options(),
        )
        for key in jax.random.split(jax.random.fold_in(self._key, n), n):
            logits, _ = predict(self.state, self.data.valid, partial(drawn, key=key))
            total = total + jax.device_get(jax.nn.softmax(logits))
        return total / (n + 1), labels


def vision_learner(
    data: Data,
    arch: str | nn.Module,
    head: str = "concat_pool",
    wd: float = 0.01,
    loss: Loss = cross_entropy,
    seed: int = 0,
    mix: Mixer | None = None,
) -> Learner:
    """A learner of pictures.

    Args:
        data: what `DataBlock.load` returns.
        arch: resnet18, 34, 50, 101 or 152, or a linen module of one's own, called as
            `module.apply(variables, x, train=bool)` on normalized pictures [B, H, W, 3].
        head: "concat_pool" (fastai's) or "linear" (torchvision's).
        wd: decoupled weight decay, a share of the rate.
        loss: mean over the items of logits [B, classes] and labels [B].
        seed: root of the initial weights and of every draw in training.
        mix: mixes each training batch: `mixup`, `cutmix`, or one of them with another alpha by
            `functools.partial`.

    Raises:
        ConfigError: there is no such architecture or head.
    """
    model = create_model(arch, len(data.classes), head=head)
    return Learner(data, model, loss, wd, seed, mix)


def learner_from_config(data: Data, config: Config) -> Learner:
    """The learner that a configuration describes."""
    mix = None
    if config.augment.mix != "none":
        mix = partial(MIXERS[config.augment.mix], alpha=config.augment.mix_alpha)
    model = config.model
    return vision_learner(data, model.arch, model.head, wd=config.fit.wd, seed=config.seed, mix=mix)
