"""Makes data and a learner for a command from its configuration, and trains the learner."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int
from rich.console import Console

from jaxch5.augmentation.mixing import MIXERS
from jaxch5.config.building import load_data, load_source, with_epochs
from jaxch5.config.section import own_default
from jaxch5.config.settings import Config, FitConfig, ModelConfig, check_applies
from jaxch5.data.block import Data
from jaxch5.data.source import Source, leave_out
from jaxch5.data.verify import unreadable
from jaxch5.errors import TrainingError
from jaxch5.learner import Learner, vision_learner
from jaxch5.losses import Loss, cross_entropy, focal_loss
from jaxch5.models.registry import spec_of
from jaxch5.models.spec import Normalization
from jaxch5.optim.schedule import Schedule, flat_cosine, sgdr, triangular
from jaxch5.run.directory import RunDir, read_skipped
from jaxch5.run.hooks.checkpoints import Saving
from jaxch5.run.pictures import going_on
from jaxch5.task import SMALLEST, SOFTMAX, Task, task_of
from jaxch5.training.freezing import describe_rates
from jaxch5.training.hosts import agree, first_then_others, on_this_host
from jaxch5.training.recipe import KIND_OF_HEAD, Recipe
from jaxch5.util.files import making, to_json
from jaxch5.util.imports import is_import_path, load_function
from jaxch5.util.text import counted, print_line


def data_of(
    config: Config, run: RunDir | None, say: Callable[[str], None], instead: str = ""
) -> tuple[Data, dict[str, str]]:
    """Returns the data, and the reason why each unreadable picture is left out, keyed by its name.

    A resumed run gets the pictures that it began with.

    Args:
        config: Configuration that names the pictures.
        run: Run that is resumed; None begins a new one.
        say: Function that takes each line about the pictures and about what has changed.
        instead: Alternative that the error message suggests if pictures are gone or relabelled.

    Raises:
        DataError: Pictures cannot be found, read or split, or pictures of the run are gone or
            relabelled.
        ConfigError: Settings do not fit the pictures or have no effect, or the processes that train
            together disagree.
        CheckpointError: The record of the run's pictures is damaged.
    """
    source = first_then_others(lambda: load_source(config.data))
    # A resumed run leaves out the pictures that it left out before: its split depends on them.
    skipped = read_skipped(run) if run else {}
    if config.data.on_bad == "skip" and not run:
        skipped = unreadable(source)
    found = going_on(run, source, say, instead) if run else None
    source, split = found or (leave_out(source, skipped) if skipped else source, None)
    if skipped:
        cannot = "could not be read when the run began and" if run else "cannot be read and"
        what = counted(len(skipped), f"picture {cannot} is", f"pictures {cannot} are")
        say(f"{what} left out (see skipped.jsonl)")
    data = load_data(config, source, split, on_this_host())
    # Each process chooses where to keep pictures, and compiled programs depend on some choices.
    cache = data.cache if data.cache == "device" else "off or memory"
    agree({"data.cache": cache, "data.batch_size": data.train.batch_size})
    agree({"pictures": len(source), "classes": list(data.classes)})
    agree({"pictures and their parts": data.pictures.digest})
    # A resumed run has to keep its settings, so no line advises the user to change them.
    for line in data.outline(advise=run is None):
        say(line)
    return data, skipped


def learner_of(data: Data, config: Config, say: Callable[[str], None] | None = None) -> Learner:
    """Makes the learner that a configuration describes.

    Args:
        data, config: Pictures to train on, and configuration of the learner.
        say: Function that takes lines about the weights and the rates; None prints them.

    Raises:
        ConfigError: A setting is invalid or has no effect, or a function of your own cannot be
            imported.
        WeightsError: The weights are not available, or do not fit the network.
    """
    learn = vision_learner(
        data,
        config.model.arch,
        config.model.weights,
        recipe=recipe_of(config),
        seed=config.seed,
        normalization=normalization_of(config.model),
        crop_pct=config.data.crop_pct,
        interpolation=config.data.interpolation,
        say=say,
        hooks=[load_function(path, "hooks") for path in config.hooks],
    )
    devices = learn.mesh.devices.shape if learn.mesh else (1, 1)
    check_applies(config, devices=devices, lacks=lacking(learn, config.model.head))
    unfreeze_as_configured(learn, config.fit)
    if config.fit.layer_decay != 1:
        line = describe_rates(learn.groups, config.fit.layer_decay)
        (say or partial(print_line, learn.console))(line)
    saving = config.checkpoint
    learn.saving = Saving(saving.every_steps, saving.every_minutes, config.fit.keep_best)
    learn.log = config.log == "tensorboard"
    learn.profile = config.profile
    return learn


def unfreeze_as_configured(learn: Learner, settings: FitConfig) -> None:
    """Unfreezes all layers, unless the schedule begins with a phase for the head alone."""
    if settings.schedule != "fine_tune":
        learn.unfreeze()


def lacking(learn: Learner, head: str) -> dict[str, str]:
    """Returns settings that have no effect with a learner's architecture, each with the reason.

    Args:
        learn: The learner.
        head: Head in the configuration.
    """
    name, norms = learn.spec.name, "only works with batch norms, which {} does not have"
    found = {} if learn.state.batch_stats else {"model.bn": norms}
    if not learn.has_batch_norms:
        found["model.train_bn"] = norms + " before its head" * ("model.bn" not in found)
    if not learn.spec.heads:
        found["model.head"] = "only works with an architecture that offers several heads, unlike {}"
    elif head not in learn.spec.heads:
        found["model.head"] = f"should be one of {', '.join(learn.spec.heads)}"
    return {key: line.format(name) for key, line in found.items()}


def recipe_of(config: Config) -> Recipe:
    """Returns the recipe that a configuration describes; its fields are named like the settings.

    Raises:
        ConfigError: A loss, metric or task of your own cannot be imported, or the number that
            `fit.best` names is not recorded.

    Example:
        >>> recipe_of(Config.model_validate({"fit": {"wd": 0.1}})).wd
        0.1
    """
    known = {field.name for field in fields(Recipe)}
    sections = itertools.chain(config, config.model, config.fit)
    values = {name: value for name, value in sections if name in known}
    # A configuration always names a head, even if the architecture does not offer it.
    heads, head = spec_of(config.model.arch).heads, config.model.head
    is_default = head in (own_default("model.head"), KIND_OF_HEAD)
    values["head"] = head if head in heads or (heads and not is_default) else None
    values["task"] = task_of(config.model.task, config.model.threshold)
    if config.fit.best:
        values["task"] = values["task"].compared_by(config.fit.best, config.fit.metrics)
    values["loss"] = loss_of(config.fit, values["task"])
    if config.augment.mix != "none":
        values["mix"] = partial(MIXERS[config.augment.mix], alpha=config.augment.mix_alpha)
    return Recipe(**values)


def from_scratch(config: Config) -> Config:
    """Returns the configuration without pretrained weights, but with the same schedule."""
    changes = {"model": {"weights": "none"}, "fit": {"schedule": config.fit.schedule}}
    return config.model_copy(update=changes)


def normalization_of(model: ModelConfig) -> Normalization | None:
    """Returns the mean and standard deviation that the settings give; None if one is missing.

    Example:
        >>> normalization_of(ModelConfig(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))).mean
        (0.5, 0.5, 0.5)
    """
    if model.mean is None or model.std is None:
        return None
    return Normalization(model.mean, model.std)


def loss_of(settings: FitConfig, task: Task = SOFTMAX) -> Loss:
    """Returns the loss that the settings name, which may be the task's own.

    Raises:
        ConfigError: The loss is a function of your own that cannot be imported.
    """
    if is_import_path(settings.loss):
        return load_function(settings.loss, "fit.loss")
    if settings.loss == "focal":
        return partial(focal_loss, gamma=settings.gamma)
    if task.loss is cross_entropy:
        return partial(cross_entropy, label_smoothing=settings.label_smoothing)
    return task.loss


def train_as_configured(learn: Learner, settings: FitConfig) -> None:
    """Trains as the settings say, from the learner's current state."""
    epochs, lr = settings.passes, settings.lr
    if settings.schedule == "one_cycle":
        learn.fit_one_cycle(
            epochs, lr, settings.div, settings.div_final, settings.pct_start, settings.moms
        )
    elif settings.schedule == "fine_tune":
        learn.fine_tune(
            epochs,
            lr,
            settings.freeze_epochs,
            settings.lr_mult,
            settings.pct_start,
            settings.div,
            settings.div_final,
            settings.moms,
        )
    else:
        learn.fit(epochs, schedule_of(settings, len(learn.data.train)), settings.moms[0])


def schedule_of(settings: FitConfig, steps_per_epoch: int) -> Schedule:
    """Returns the learning rate as a function of the step, for flat_cosine, triangular or sgdr.

    Example:
        >>> rate = schedule_of(FitConfig(schedule="triangular", lr=1.0, div=4.0), 10)
        >>> rate(0), rate(10), rate(20)
        (0.25, 1.0, 0.25)
    """
    lr, cycle = settings.lr, settings.cycle_epochs * steps_per_epoch
    if settings.schedule == "triangular":
        return triangular(lr / settings.div, lr, cycle)
    if settings.schedule == "sgdr":
        return sgdr(lr, cycle)
    steps = settings.passes * steps_per_epoch
    return flat_cosine(lr, steps, settings.pct_start, settings.div_final)


def data_without(config: Config, source: Source, held: Bool[np.ndarray, "items"]) -> Data:
    """Returns data in which some pictures are held out, and all others are for training."""
    return load_data(config, source, lambda _: (np.flatnonzero(~held), np.flatnonzero(held)))


def judge_by_training(
    config: Config, source: Source, folds: Int[np.ndarray, "items"], kept: Path, console: Console
) -> tuple[Float[np.ndarray, "items classes"], Path]:
    """Trains once for each fold, on all pictures outside it, and predicts the pictures in it.

    Returns the probabilities, and the folder inside `kept` that holds the results of these folds.

    Args:
        config: Configuration for training. Its logs and hooks are ignored, and so is
            `fit.keep_best`, which would let the held-out labels choose the epoch.
        source: Labelled pictures.
        folds: Fold of each picture, from `stratified_folds`; a picture in no fold (-1) gets zeros.
        kept: Folder in which the results of each fold are kept, so that a fold that is finished
            is not trained again. It may hold other files, such as results for other settings.
        console: Console on which progress is shown.

    Raises:
        TrainingError: A trained network's outputs are not finite.
    """
    say = partial(print_line, console)
    config = config.model_copy(update={"fit": {"keep_best": False}, "log": "none", "hooks": []})
    of = [config.model_dump(mode="json"), source.references, source.labels.tolist(), folds.tolist()]
    found = np.zeros((len(source), len(source.classes)))
    # The batch size has to fit the smallest training set, the one without the largest fold.
    sizes = np.bincount(folds[folds >= 0])
    data, count = data_without(config, source, folds == sizes.argmax()), len(sizes)
    # The devices may have decided the batch size.
    kept /= hashlib.sha256(to_json([*of, data.train.batch_size]).encode()).hexdigest()[:16]
    kept.mkdir(parents=True, exist_ok=True)
    config = with_epochs(config, len(data.train.items))
    for fold in range(count):
        file, held = kept / f"{fold}.npy", folds == fold
        say(f"fold {fold + 1} of {count}: {counted(int(held.sum()), 'picture')}")
        if not file.exists():
            parted = data.parted(np.flatnonzero(~held), np.flatnonzero(held))
            learn = learner_of(parted, config, say)
            learn.console = console
            train_as_configured(learn, config.fit)
            probabilities, _ = learn.get_preds()
            if not np.isfinite(probabilities).all():
                raise TrainingError(
                    f"fold {fold + 1}: the trained network's outputs are not finite; lower the "
                    "learning rate (--fit.lr)"
                )
            with making(file) as scratch, scratch.open("wb") as opened:
                np.save(opened, probabilities)
        # The outputs of sigmoids need not add up to 1.
        probabilities = np.maximum(np.load(file), SMALLEST)
        found[held] = probabilities / probabilities.sum(axis=1, keepdims=True)
    return found, kept
