"""Passes the events of training to hooks, and tells them how it ended, even after an error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import jax

from jaxch5.errors import IN_HOOK, DataError
from jaxch5.training.events import Begin, End, Epoch, Event, Hook, Ready, Step
from jaxch5.training.interrupts import StopAtOnce, Terminated
from jaxch5.training.state import TrainState
from jaxch5.util.text import name_of


def follow(
    events: Iterable[Event],
    hooks: Sequence[Hook],
    check: Callable[[], None],
    state: Callable[[], TrainState],
) -> None:
    """Passes events to hooks, and adds an `End` if anything except a second Ctrl-C cuts them short.

    Args:
        events: Events of a training call, from its `Begin` to its `End`.
        hooks: Hooks in calling order; each receives every event, even if an earlier hook fails.
        check: Function called after each step and each epoch; an error in it ends training.
        state: Function that returns the current state of training.

    Raises:
        BaseException: A hook, the check or the events raised it.
    """
    event: Event | None = None
    resting = False
    try:
        for event in events:
            resting = isinstance(event, (Step, Epoch))
            _hand(event, hooks)
            if resting:
                check()
            resting = False
    except StopAtOnce:
        raise
    except BaseException as ended_by:
        if event is not None and not isinstance(event, End):
            interrupted = isinstance(ended_by, (KeyboardInterrupt, Terminated))
            # Unless one of these holds, a failed step may have consumed the state.
            good = resting or interrupted or isinstance(ended_by, DataError)
            last = End(event.number, state() if good else None, "failed", ended_by)
            _hand(last._replace(how="interrupted") if interrupted else last, hooks)
        raise


def _hand(event: Event, hooks: Sequence[Hook]) -> None:
    failed: list[Exception] = []
    for hook in hooks:
        try:
            hook(event)
        except Exception as error:
            failed.append(error)
    if failed:
        raise failed[0]


def guest(hook: Hook) -> Hook:
    """Wraps a user's hook so that it cannot change other hooks' events, and its errors name it."""

    def call(event: Event) -> None:
        if not isinstance(event, (Begin, Ready)) and event.state is not None:
            # The arrays are read-only, but the dictionaries around them are not.
            event = event._replace(state=jax.tree.map(lambda leaf: leaf, event.state))
        try:
            hook(event)
        except Exception as error:
            error.add_note(f"{IN_HOOK} {name_of(hook)}")
            raise

    return call
