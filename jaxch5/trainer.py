"""Defines the trainer, which holds data, a model and its state for `jaxch5.training`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Self

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Float, Int

from jaxch5.data.block import Data
from jaxch5.framing import Size, height_and_width
from jaxch5.metrics import CHANGES, Record
from jaxch5.models.pretrained import Pretrained, for_size
from jaxch5.models.registry import spec_of
from jaxch5.models.spec import HEAD, ModelSpec, Normalization
from jaxch5.results.about import about_network
from jaxch5.results.interpretation import interpretation_of
from jaxch5.results.predictor import Predictor
from jaxch5.run.attempts import Attempts
from jaxch5.run.checkpoint import Saved, StoredCheckpoints
from jaxch5.run.conditions import about_run, check_conditions
from jaxch5.run.directory import RunDir
from jaxch5.run.follow import follow
from jaxch5.run.hooks.checkpoints import Keeper, Saving
from jaxch5.run.hooks.chosen import hooks_of
from jaxch5.run.past import Past
from jaxch5.run.pictures import check_pictures, known_by
from jaxch5.run.recorder import Recorder
from jaxch5.run.transfer import transfer
from jaxch5.training.events import Begin, End, Epoch, Event, Hook, Ready
from jaxch5.training.freezing import Frozen, layer_groups, shapes_of
from jaxch5.training.guard import Guarded, alone, are_comparable, check_outputs, check_weights
from jaxch5.training.hosts import agree, agreed_check, of_first
from jaxch5.training.interrupts import Interrupts
from jaxch5.training.loop import fit, predict
from jaxch5.training.lr_finder import Sweep
from jaxch5.training.memory import out_of_memory
from jaxch5.training.mesh import make_mesh, place, placement_of, share
from jaxch5.training.plan import Plan, check_rates, finished, in_sizes, left_to_do
from jaxch5.training.recipe import Recipe
from jaxch5.training.reduction import check_is_mean
from jaxch5.training.state import TrainState, init_state, with_variables
from jaxch5.training.step import DrawnEvalStep
from jaxch5.training.steps import Steps, compile_steps
from jaxch5.util.seeds import check_seed
from jaxch5.util.text import plain_console, print_line
from jaxch5.view import WHOLE, view_of


class Trainer(Guarded):
    """Trains a model on data; `Learner` adds what notebooks need.

    Attributes:
        data: Pictures for training and validation.
        model, spec: Linen module, and the description of its architecture.
        recipe: Loss, optimizer, precision and other fixed choices.
        precision: Type in which the model computes; a learner's file names it.
        groups: Groups of the model's layers.
        state: Weights, running statistics and optimizer state after the last step.
        recorder: Losses, rates and records of training.
        sweep: Rates, losses and smoothed losses of the last `lr_find`.
        console: Console on which tables and bars are drawn.
        mesh: Devices that share a batch; None for a single device.
        run: Run into which records and checkpoints are written; None writes nothing.
        saving: When checkpoints are written, and whether training ends with the best weights.
        log, profile: Whether numbers for TensorBoard, and traces of some steps, are written.
        hooks: Functions that receive the events of training; see `jaxch5.training.events`.
    """

    def __init__(
        self,
        data: Data,
        model: nn.Module,
        recipe: Recipe,
        pretrained: Pretrained | None = None,
        seed: int = 0,
        normalization: Normalization | None = None,
        hooks: Sequence[Hook] = (),
        spec: ModelSpec | None = None,
        view: Mapping[str, Any] = {},
    ) -> None:
        self._given, recipe = recipe, recipe.of_pictures(data.train.labels, data.classes)
        self.mesh = make_mesh(data.train.batch_size, recipe.devices)
        if recipe.mix or (self.mesh and recipe.bn == "local"):
            check_is_mean(recipe.objective, len(data.classes))
        self.data = share(data, self.mesh)
        self.model, self.recipe, self.pretrained = model, recipe, pretrained
        self.sweep: Sweep | None = None
        self.console, self.saving = plain_console(), Saving()
        self.run: RunDir | None = None
        self.log, self.profile, self.hooks, self.precision = False, False, hooks, recipe.precision
        self._compiled: dict[Any, Steps] = {}
        self._looks: dict[Any, DrawnEvalStep] = {}
        self._predictor: tuple[Any, Predictor] | None = None
        outputs, self._shapes = shapes_of(model, data.size, recipe.sizes)
        self.spec = spec or spec_of(model, self._shapes["params"])
        check_outputs(self.spec.name, outputs, recipe.task, data.classes)
        self.normalization = normalization or (pretrained or self.spec).normalization
        self.view = view_of(view, pretrained.view if pretrained else WHOLE)
        self.licence = pretrained and pretrained.licence
        self.groups = layer_groups(recipe.grouping, self.spec, self._shapes["params"])
        self._begin(seed)

    def __repr__(self) -> str:
        best, begin, data = self.recipe.task.best, self._frozen.frozen_to, self.data.describe()
        frozen = f", frozen before its {self.groups.names[begin]}" if begin else ""
        # Once the learner has other data, a score on the earlier data would be misleading.
        is_of_data = self.records and self.record.get(CHANGES, 0) == self._past.changes
        scored = f", {best.metric} {best.shown(self.record)}" if is_of_data else ""
        return f"<{self.spec.name}{frozen}; {self.recorder}{scored}\n {data.partition(';')[0]}>"

    def _begin(self, seed: int) -> None:
        self._seed = check_seed(seed)
        weights_key, self._key = jax.random.split(jax.random.key(self._seed))
        self.recorder, self._in_call, self._restored = Recorder(), "", False
        self._kept: Record | None = None
        self._past = Past()
        self._frozen = self._frozen_to(-1 if self.pretrained else 0)
        how = weights_key, self._frozen.optimizer, self._frozen.paths
        self.state: TrainState = init_state(self.model, self.recipe, self.data.size, *how)
        if self.pretrained:
            pretrained = for_size(self.pretrained, self.spec, height_and_width(self.data.size))
            head = self.model.head if self.spec.heads else None
            taken, self._fate = transfer(self.state.variables, pretrained, self.data.classes, head)
            self.state = with_variables(self.state, taken)
        self._place()

    def _place(self) -> None:
        self.state = place(self.state, self.mesh, self.recipe.shard_optimizer)

    def again(self, seed: int) -> Self:
        """Returns a copy, without a run, that starts over and shares the compiled programs.

        Args:
            seed: Seed for the initial weights and for every draw in training.
        """
        other = copy.copy(self)
        other.run, other.data = None, self.data.with_seed(seed)
        other._begin(seed)
        return other

    @property
    def has_batch_norms(self) -> bool:
        """Whether the model's body has batch norms. Those of the head are never frozen."""
        return any(self.spec.stage(name) != HEAD for name in self._shapes.get("batch_stats", ()))

    @property
    def is_untrained(self) -> bool:
        """Whether no epoch has trained the random body, or a restored run does in one cycle."""
        in_cycle = self._restored and {one["phase"] for one in self.records} <= {"one_cycle"}
        begins = not (self.pretrained or self._frozen.frozen_to)
        return begins and (in_cycle or not self.records)

    @property
    def records(self) -> list[Record]:
        """The records of the epochs: losses, metrics as fractions of 1, seconds, pictures/s."""
        return self.recorder.records

    @property
    def record(self) -> Record:
        """The record of the epoch that the weights are from: the last or, if kept, the best."""
        return self._kept or self.records[-1]

    def _adopt(self, data: Data) -> Data:
        """Prepares for other data: devices, class weights, and which epochs can be compared."""
        make_mesh(data.train.batch_size, self.recipe.devices)
        recipe = self.recipe.reweighted(self._given.class_weights, data.train.labels, data.classes)
        if changed := recipe is not self.recipe:
            vars(self)["recipe"], self._compiled = recipe, {}
            self._frozen = self._frozen_to(self._frozen.frozen_to)
            print_line(self.console, "the class weights are now those of the new data")
        changed |= not are_comparable(self.data, data)
        self._past.changes += changed
        # A restored run goes on only in epochs like its own.
        self._restored &= not changed and len(data.train) == len(self.data.train)
        return share(data, self.mesh)

    def _frozen_to(self, group: int) -> Frozen:
        return Frozen(self.model, self._shapes, self.spec, self.groups, group, self.recipe)

    @property
    def _steps(self) -> Steps:
        return self._steps_of(self.data.size)

    def _steps_of(self, size: Size) -> Steps:
        data, frozen, normalization = self.data, self._frozen, self.normalization
        # An epoch's length decides when accumulated gradients make an update.
        length = len(data.train) if self.recipe.accumulate > 1 else 0
        of = normalization, self.view, data.size, data.train.shapes()
        key = (frozen.frozen_to, length, size, data.augment), of
        if key not in self._compiled:
            known = {of: steps.evaluate for (_, of), steps in self._compiled.items()}
            how: Any = {"deterministic": self.recipe.deterministic, "evaluate": known.get(of)}
            both = frozen.steps(data, normalization, self.mesh, self.view, size)
            self._compiled[key] = compile_steps(*both, self.state, data, self._key, **how)
        return self._compiled[key]

    @alone
    def freeze_to(self, n: int) -> None:
        """Freezes the groups of layers before group `n` and clears the optimizer's moments.

        Frozen groups get no updates, and no gradient is computed for them, except that their batch
        norms still train if `train_bn` is set.

        Args:
            n: Number of the first group that trains; a negative number counts from the end.

        Raises:
            ConfigError: There is no such group, or freezing to it is impossible; see `Frozen`.
            TrainingError: Training is in progress.
        """
        self._freeze_to(n)

    def _freeze_to(self, n: int) -> None:
        self._frozen = self._frozen_to(n)
        if line := self._frozen.idle(n):
            print_line(self.console, line)
        self.state = self._frozen.fresh(self.state)
        self._place()

    @alone
    def _fit(self, plans: Sequence[Plan]) -> None:
        """Follows the plans, whose steps count from 0, or what a restored run has left of them."""
        check_weights(self.state)
        steps_per_epoch = len(self.data.train)
        check_rates(plans, steps_per_epoch)
        plans = in_sizes(plans, self.recipe.sizes, steps_per_epoch)
        now = int(self.state.step), self.records
        with self._past.writing(self.run, *now), Interrupts() as interrupts:
            restored, self._restored = self._restored, False
            if not restored:
                # Epochs begin at multiples of their length, even after an interrupted epoch.
                start = self._past.first_step(int(self.state.step), steps_per_epoch)
                self.state = self.state.replace(step=placement_of(self.state).put(np.int32(start)))
                plans = [plan._replace(start=start + plan.start) for plan in plans]
            attempt = Attempts(partial(print_line, self.console))
            hooks, keeper = hooks_of(self, restored, self._kept, attempt)
            self._kept = None
            check = agreed_check(interrupts)
            events = self._events(plans, restored, interrupts, check, keeper)
            follow(events, hooks, check, lambda: self.state)
        attempt.check()

    def _events(
        self,
        plans: Sequence[Plan],
        restored: bool,
        interrupts: Interrupts,
        check: Callable[[], None],
        keeper: Keeper,
    ) -> Iterator[Event]:
        data, recipe, run = self.data, self.recipe, self.run
        step, length = int(self.state.step), len(data.train)
        offset, done = self._past.offset, self.records[-1]["epoch"] + 1 if self.records else 0
        unvalidated = restored and step % length == 0 and done < step // length + offset
        if not restored and not step and (line := known_by(self.pretrained, data)):
            print_line(self.console, line)
        names = tuple(self.groups.names), tuple(data.classes)
        yield Begin(step, length, tuple(plans), *names, data.describe(), run and run.path, offset)
        if not (left := left_to_do(plans, step, length, unvalidated) if restored else plans):
            print_line(self.console, finished(plans, step // length + offset))
        for plan in left:
            within = int(self.state.step) > plan.start
            if plan.frozen_to is not None and not within:
                self._freeze_to(plan.frozen_to)
            size = plan.size or data.size
            with interrupts.during("compiling"):
                steps = self._steps_of(size).wrapped(interrupts.unbroken)
            check()
            yield Ready(int(self.state.step), plan)
            args = plan, steps, recipe.objective, self._key, recipe.metrics, within and unvalidated
            need = steps.need, data.train.batch_size, size, data.devices
            with out_of_memory(*need), interrupts.steps():
                for event in fit(self.state, data, *args, check, recipe.task, offset):
                    if isinstance(event, Epoch) and self._past.changes:
                        event.record[CHANGES] = self._past.changes
                    self.state = event.state
                    interrupts.kept()
                    yield event
        if self.saving.keep_best:
            self._kept, variables = keeper.best() or (None, self.state.variables)
            self.state = with_variables(self.state, of_first(variables))
            self._place()
        interp = None
        # All processes compute predictions, and only the first one writes.
        if run and np.isfinite((preds := self.get_preds())[0]).all():
            shown: tuple[Any, ...] = recipe.task, data.framing, data.size
            interp = interpretation_of(data.source, data.valid.items, *preds, *shown)
        yield End(int(self.state.step), self.state, "finished", interpretation=interp)

    def _about(self) -> dict[str, Any]:
        of = self.model, self.spec, self._frozen.frozen_to, self.recipe, self.data, self._seed
        seen = self.normalization, self.view, self.licence
        return about_run(*of, *seen) | self._past.described(self.data)

    @alone
    def restore(self, run: RunDir) -> bool:
        """Restores the state and records of a run's last checkpoint; returns False if it has none.

        A damaged one is skipped with a warning, and removed when the next call continues the run.

        Args:
            run: Run from `jaxch5.run.directory.open_run`.

        Raises:
            CheckpointError: No checkpoint is intact, or the list of the run's pictures is damaged.
            ConfigError: The run has another network, other pictures or other settings.
            TrainingError: Training is in progress.
        """
        steps = (saves := StoredCheckpoints(run.checkpoints)).steps()
        found = saves.newest(partial(self._saved, saves), partial(print_line, self.console))
        agree({f"a checkpoint in {run.path}": found is not None})
        if found is None:
            return False
        check_pictures(run, self.data)
        about, frozen, seen, (state, records) = found
        agree({"step of the last checkpoint": int(state.step)})
        # From here on nothing can fail, so a run that is refused leaves the learner as it was.
        self.normalization, self.view, self.licence = seen
        self._frozen, self.state = frozen, state
        self._place()
        self.recorder, self._kept, self._restored = Recorder(records), None, True
        self._past.restore(run, about, self.data, steps)
        return True

    def _saved(self, saves: StoredCheckpoints, step: int) -> tuple[Any, Frozen, Any, Saved]:
        seen, frozen_to = check_conditions(saves, step, self._about())
        frozen = self._frozen_to(frozen_to)
        return saves.about(step), frozen, seen, saves.restore(frozen.fresh(self.state), step)

    @property
    def _classifier(self) -> Predictor:
        """One predictor for all states, so that predictions share its compiled programs."""
        data, task, spec = self.data, self.recipe.task, self.spec
        about = about_network(self.model, spec, self.precision, data, self.view, self.licence)
        of: tuple[Any, ...] = self.model, {}, data.classes, self.normalization, about, task, spec
        if self._predictor is None or self._predictor[0] != of:
            self._predictor = of, Predictor(*of)
        return self._predictor[1]

    def get_preds(self) -> tuple[Float[np.ndarray, "items classes"], Int[np.ndarray, "items"]]:
        """Returns the probabilities and the labels of the validation set, in its order."""
        logits, labels = predict(self.state, self.data.valid, self._steps.evaluate)
        return self.recipe.task.probabilities(logits), labels
