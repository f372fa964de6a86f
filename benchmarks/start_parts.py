"""Measures how long the parts of a start take in this process, which `start.py --parts` starts.

The script takes one JSON document as its argument. `{"settings": ...}` trains with these settings
to the end of the run; `{"predict": RUN, "picture": FILE}` predicts one picture. It prints one line
of JSON, which contains the seconds that each phase takes, in order, both by the clock and in
processor time. For each kind of work that JAX does, in whatever phase, it also contains the seconds
by the clock, summed over all threads.
"""

from __future__ import annotations

import time

BEGAN = time.time(), time.process_time()

import json  # noqa: E402
import sys  # noqa: E402
from collections import defaultdict  # noqa: E402
from typing import Any  # noqa: E402

# JAX's names for its work. A trace within another trace counts as a part of the outer one.
EVENTS = {
    "/jax/core/compile/jaxpr_trace_duration": "tracing",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lowering",
    "/jax/core/compile/backend_compile_duration": "compiling or reading",
    "/jax/compilation_cache/cache_retrieval_time_sec": "of which reading jax's cache",
}


class Clock:
    """Records when phases end, and how long JAX spends on each kind of work."""

    def __init__(self) -> None:
        self.phases: dict[str, tuple[float, float]] = {}
        self.last = BEGAN
        self.of_jax: defaultdict[str, float] = defaultdict(float)

    def ended(self, phase: str) -> None:
        now = time.time(), time.process_time()
        clock, processor = self.phases.get(phase, (0.0, 0.0))
        self.phases[phase] = clock + now[0] - self.last[0], processor + now[1] - self.last[1]
        self.last = now

    def listen(self, event: str, seconds: float, **_: Any) -> None:
        if event in EVENTS:
            self.of_jax[EVENTS[event]] += seconds

    def hook(self, event: Any) -> None:
        """Records the phases of a run; training calls this for each of its events."""
        from jaxch5.training.events import Begin, End, Epoch, Ready, Step

        names = {
            Begin: "begin",
            Ready: "steps traced and compiled, or read",
            Step: "first step",
            Epoch: "later epochs" if "first epoch" in self.phases else "first epoch",
            End: "report",
        }
        phase = names[type(event)]
        if type(event) is Epoch or phase not in self.phases:
            self.ended(phase)


def train(clock: Clock, settings: dict[str, Any]) -> None:
    """Trains as `jaxch5 train` does, from its imports to the report."""
    from functools import partial
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from rich.console import Console

    from jaxch5.config.settings import Config
    from jaxch5.configured import data_of, learner_of, train_as_configured
    from jaxch5.run.directory import create_run
    from jaxch5.training.process import prepare_process

    clock.ended("imports")
    prepare_process()
    config = Config.model_validate(settings)
    console = Console(quiet=True)
    data, _ = data_of(config, None, console.print)
    clock.ended("data")
    learn = learner_of(data, config, console.print)
    clock.ended("weights")
    learn.console = console
    learn.hooks = (*learn.hooks, partial(Clock.hook, clock))
    with TemporaryDirectory() as folder:
        learn.run = create_run(config, Path(folder) / "run")
        train_as_configured(learn, config.fit)
        clock.ended("end")


def predict(clock: Clock, run: str, picture: str) -> None:
    """Predicts as `jaxch5 predict` does."""
    import jaxch5.predict
    from jaxch5.results.predictor import load_learner
    from jaxch5.training.process import prepare_process

    assert jaxch5.predict
    clock.ended("imports")
    prepare_process()
    predictor = load_learner(run)
    clock.ended("weights")
    predictor.predict(picture)
    clock.ended("prediction")


def main() -> None:
    request = json.loads(sys.argv[1])
    clock = Clock()
    import jax.monitoring

    jax.monitoring.register_event_duration_secs_listener(clock.listen)
    if "settings" in request:
        train(clock, request["settings"])
    else:
        predict(clock, request["predict"], request["picture"])
    print(json.dumps({"phases": clock.phases, "jax": dict(clock.of_jax)}), flush=True)


if __name__ == "__main__":
    main()
