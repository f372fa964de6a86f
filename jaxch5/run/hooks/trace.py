"""A hook that traces some steps, to show where the time of a step goes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax

from jaxch5.training.events import Begin, End, Event, Ready, Step

# Number of `Step` events before a trace: the first steps run with cold caches and low clock rates.
WARM_UP = 5
STEPS = 10


class Trace:
    """Traces some steps of one epoch in each phase of training, after the phase's first steps.

    It has to be the last hook, so that a trace begins after the other hooks are done.

    Args:
        folder: Folder to write into; each phase has its own subfolder.
        say: Function that takes a line about each trace.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._say = say
        self._tracing = False
        self._first: int | None = None

    def __call__(self, event: Event) -> None:
        match event:
            case Begin():
                self._steps_per_epoch = event.steps_per_epoch
            case Ready():
                self._phase = event.plan.name
                self._events, self._first = 0, None
            case Step():
                self._events += 1
                self._watch(event, event.number % self._steps_per_epoch == 0)
            case End() if self._tracing:
                self._stop()
            case End(how="finished") if self._first is None:
                self._say(
                    "--profile: the last phase was not traced, as a trace needs more than "
                    f"{WARM_UP} steps"
                )

    def _watch(self, event: Step, ends_epoch: bool) -> None:
        if self._first is None:
            if self._events >= WARM_UP and not ends_epoch:
                self._start(event)
        elif self._tracing and (ends_epoch or event.number - self._first >= STEPS):
            jax.block_until_ready(event.state)
            self._stop()
            file = max(self._folder.glob(f"{self._phase}/plugins/profile/*/perfetto_trace.json.gz"))
            steps = f"steps {self._first + 1} to {event.number}"
            self._say(f"--profile: traced {steps}; open {file} in https://ui.perfetto.dev")

    def _start(self, event: Step) -> None:
        self._first, self._tracing = event.number, True
        options = jax.profiler.ProfileOptions()
        # Without this, each call of a Python function would be an event in the trace.
        options.python_tracer_level = 0
        jax.block_until_ready(event.state)
        jax.profiler.start_trace(
            self._folder / self._phase, create_perfetto_trace=True, profiler_options=options
        )

    def _stop(self) -> None:
        self._tracing = False
        jax.profiler.stop_trace()
