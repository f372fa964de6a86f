"""`jaxch5 train`: trains an image classifier and reports how good it is."""

from __future__ import annotations

import shlex
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field
from rich.console import Console

from jaxch5.cli import PicturesOptions, run
from jaxch5.config.settings import MAY_CHANGE, MAY_MOVE, Config
from jaxch5.config.toml import differing, flat
from jaxch5.errors import ConfigError, Jaxch5Error, TrainingError
from jaxch5.run.directory import (
    PROFILE_RESULTS,
    RunDir,
    add_environment,
    create_run,
    discard_run,
    locked,
    open_run,
    write_config,
    write_skipped,
)
from jaxch5.training.interrupts import Terminated
from jaxch5.util.address import is_on_hub
from jaxch5.util.files import from_here
from jaxch5.util.text import counted, print_line, printable

if TYPE_CHECKING:
    from jaxch5.data.block import Data
    from jaxch5.learner import Learner


class TrainOptions(PicturesOptions):
    """Train an image classifier; without arguments, a ResNet-18 on scikit-learn's digits."""

    workdir: Path | None = Field(
        None, description="new or empty run directory; by default runs/DATE-NAME"
    )
    distributed: str | None = Field(
        None,
        description="train together with other processes, on this host or on others: auto under "
        "Slurm, Kubernetes or MPI, or on a TPU pod; otherwise HOST:PORT,COUNT,ID, which are the "
        "address of the first process, the number of processes, and this one's number, from 0",
    )
    resume: Path | None = Field(
        None, description="directory of the run to resume, from its last checkpoint"
    )

    @property
    def together(self) -> bool:
        """Returns whether other processes train too."""
        return bool(self.distributed)

    @classmethod
    def settings_file(cls, given: dict[str, Any]) -> Path | None:
        """Returns the file with the settings, which is the run's own if a run is resumed."""
        if "resume" not in given:
            return super().settings_file(given)
        for other in ("config", "workdir"):
            if other in given:
                raise ConfigError(f"--{other}: cannot be combined with --resume; leave one out")
        run, _ = open_run(Path(given["resume"]))
        if (run.path / PROFILE_RESULTS).exists():
            raise ConfigError(
                f"{run.path}: is not a run: it has the results of jaxch5 transfer_profile, which "
                "continues them with --workdir"
            )
        return run.config_file


def train(options: TrainOptions) -> dict[str, Any]:
    """Trains as the options say; returns the record of the final weights and the run directory.

    If several processes train, only the first prints and writes; the others return an empty dict.
    """
    from jaxch5.training import hosts
    from jaxch5.training.process import prepare_process

    prepare_process(alone=not options.together)
    if not options.distributed:
        return _train(options, first=True)
    hosts.join(options.distributed)
    try:
        return _train(options, hosts.is_first())
    except Exception as error:
        if options.debug or not hosts.is_loss_of_another(error):
            raise
        hosts.leave(hosts.LOST)


def _train(options: TrainOptions, first: bool) -> dict[str, Any]:
    from jaxch5.training import hosts

    console = options.console(quiet=not first)
    # The first process holds the lock of the run, until the run ends.
    with ExitStack() as lock:
        with hosts.failing_together():
            if options.together:
                options.print_overruled(console)
            config = options.settings()
            hosts.agree({name: str(value) for name, value in flat(config).items()})
            if options.resume:
                learn, config, run = _resumed(options.resume, config, console, lock)
            else:
                learn, config, run = _begun(options, config, console, lock)
        try:
            return _fit(learn, config, run)
        except Jaxch5Error:
            # Only the first process may look: it may have removed the run's directory already.
            if first and not options.resume and _is_empty(run):
                discard_run(run)
            raise


def _is_empty(run: RunDir) -> bool:
    return not run.metrics_file.exists() and not any(run.checkpoints.iterdir())


def _begun(
    options: TrainOptions, config: Config, console: Console, lock: ExitStack
) -> tuple[Learner, Config, RunDir]:
    """Makes the learner of a new run, and the run's directory."""
    from jaxch5.config.building import as_decided, with_epochs
    from jaxch5.configured import data_of
    from jaxch5.training import hosts

    data, skipped = data_of(config, None, partial(print_line, console))
    config = hosts.first_then_others(
        lambda: options.settings_with_weights(partial(print_line, console))
    )
    config = as_decided(config, data.source)
    decided = {"batch_size": data.train.batch_size, "presize": data.presize}
    if others := {name: of for name, of in decided.items() if of != getattr(config.data, name)}:
        config = config.model_copy(update={"data": others})
    if config.fit.epochs is None:
        config = with_epochs(config, len(data.train.items))
        epochs, of = config.fit.passes, counted(len(data.train.items), "picture")
        print_line(console, f"{epochs} epochs, the default for {of} (--fit.epochs changes it)")
    learn = _learner(data, config, console)
    _check_names(learn)
    if learn.spec.heads:
        # The default is no head of a `ModelSpec` that offers others.
        config = config.model_copy(update={"model": {"head": learn.model.head}})
    if learn.pretrained:
        # The view is stored, so that it stays the same even if the weights' metadata changes later.
        config = config.model_copy(update={"data": vars(learn.view)})
    # The directory is created only if no process has failed by now.
    hosts.gather("")
    path = ""
    if hosts.is_first():
        run = create_run(config, options.workdir)
        lock.enter_context(locked(run))
        write_skipped(run, skipped)
        path = str(run.path)
    return learn, config, RunDir(Path(hosts.gather(path)[0]))


def _resumed(
    path: Path, config: Config, console: Console, lock: ExitStack
) -> tuple[Learner, Config, RunDir]:
    """Makes the learner of an existing run, with the state of the run's last checkpoint."""
    from jaxch5.configured import data_of, from_scratch
    from jaxch5.run.history import total_epochs
    from jaxch5.training.hosts import is_first
    from jaxch5.training.mesh import make_mesh

    run, recorded = open_run(path)
    if is_first():
        lock.enter_context(locked(run))
    may_change = MAY_CHANGE + MAY_MOVE * run.pictures_file.exists()
    if changed := [key for key in differing(config, recorded) if key not in may_change]:
        raise ConfigError(
            f"{changed[0]}: a resumed run keeps the value in {run.config_file}; start a new run to "
            "change it"
        )
    make_mesh(config.data.batch_size, config.fit.devices, resumed=True)
    instead = f"begin another run with --model.weights {run.path}"
    data, _ = data_of(config, run, partial(print_line, console), instead)
    # The weights that the run began with may be gone by now; a checkpoint replaces them anyway.
    learn = _learner(data, from_scratch(config), console)
    if learn.restore(run):
        done, epochs = len(learn.records), total_epochs(config.fit)
        if done < epochs:
            print_line(console, f"resuming after {done} of {epochs} epochs")
    else:
        learn = _learner(data, config, console)
    if is_first():
        write_config(run, config)
    return learn, config, run


def _learner(data: Data, config: Config, console: Console) -> Learner:
    from jaxch5.configured import learner_of
    from jaxch5.run.transfer import find_weights
    from jaxch5.training.hosts import agree, first_then_others

    model = config.model
    # Each process has found out by itself what "auto" means.
    agree({"model.weights": model.weights})
    if is_on_hub(model.weights):
        # The first process downloads the weights; the others read them from the hub's cache.
        first_then_others(lambda: find_weights(model.weights, model.arch))
    learn = learner_of(data, config, partial(print_line, console))
    learn.console = console
    return learn


def _check_names(learn: Learner) -> None:
    """Refuses a metric whose name `train` or `evaluate` uses for another of its results.

    Only new runs are checked: earlier versions began runs with such metrics.
    """
    from jaxch5.task import OF_COMMANDS

    if taken := OF_COMMANDS.intersection(learn.recipe.task.scores(learn.recipe.metrics)):
        raise ConfigError(
            f"fit.metrics = {min(taken)}: train or evaluate prints something else under this name; "
            "give the function another name"
        )


def _fit(learn: Learner, config: Config, run: RunDir) -> dict[str, Any]:
    from jaxch5.configured import train_as_configured
    from jaxch5.run.environment import environment
    from jaxch5.training.hosts import gather, is_first

    if is_first():
        add_environment(run, environment())
    learn.run = run
    try:
        train_as_configured(learn, config.fit)
    except (KeyboardInterrupt, Terminated):
        if is_first():
            again = shlex.join(("jaxch5", "train", "--resume", str(from_here(run.path))))
            print(printable(f"resume  {again}"), file=sys.stderr)
        raise
    # The first process has written the report by now, for which JAX would not wait at the exit.
    gather("")
    record = learn.record
    best = learn.recipe.task.best
    kept = f" (of epoch {record['epoch'] + 1}, the best)" if config.fit.keep_best else ""
    for line in (
        f"{best.metric} {best.shown(record)}{kept}",
        f"report  {from_here(run.report_file)}",
        f"next    {shlex.join(('jaxch5', 'evaluate', str(from_here(run.path))))}",
    ):
        print_line(learn.console, line)
    if unanswered := record.get("unanswered"):
        raise TrainingError(
            f"{run.path}: the trained network's outputs are not finite for {unanswered:,} of the "
            f"validation pictures, so it has no {best.metric}; lower the learning rate "
            "(--fit.lr)"
        )
    return {**record, "run": str(run.path)} if is_first() else {}


def main() -> int:
    status = run(train, TrainOptions, "jaxch5 train")
    if status == 1 and "jaxch5.training.hosts" in sys.modules:
        from jaxch5.training import hosts

        if hosts.joined():
            hosts.leave()
    return status


if __name__ == "__main__":
    sys.exit(main())
