"""Lets processes join to train one network, agree with each other, and notice lost peers.

Each process runs the same program on its own devices (those of its host, or some of them) and reads
its own rows of every batch; only the first process prints and writes. Processes that do different
things would wait for one another forever, so whatever could make them differ is compared before
they begin, and if one of them is told to stop, all stop at the same step.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import re
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from jaxch5.errors import ConfigError, Jaxch5Error, TrainingError
from jaxch5.training.interrupts import Interrupts, Terminated
from jaxch5.training.mesh import to_host

# A process that is silent for this many seconds counts as ended, and the run then ends too.
HEARTBEAT_SECONDS = 20
START_SECONDS = 300
# The processes exchange requests to stop once in this many calls of an agreed check.
CALLS_BETWEEN = 8
NOBODY = f"--distributed: the other processes did not join within {START_SECONDS} seconds"
LOST = "another process has ended or cannot be reached; resume the run with --resume"

# Words that occur in errors of the libraries that transport messages between devices.
UNREACHABLE = r"Gloo|NCCL|UNAVAILABLE|ABORTED|DEADLINE_EXCEEDED|[Cc]onnection|[Ss]ocket"
# Begins what a process that has failed passes to the others instead of a text.
FAILED = "\0"

T = TypeVar("T")
_leaving = threading.Lock()


def join(distributed: str) -> None:
    """Joins the other processes; this has to happen before JAX does anything else.

    If another process ends later, this one ends too, with status 1 and a one-line message.

    Args:
        distributed: "auto", if Slurm, Kubernetes, MPI or a TPU pod tells which processes there are;
            or HOST:PORT,COUNT,ID: the address of the first process, the number of processes, and
            the index of this process, counted from 0.

    Raises:
        ConfigError: `distributed` has neither of these forms, or it is "auto" and nothing tells
            which processes there are.
        TrainingError: The other processes did not join in time.
    """
    given: dict[str, Any] = {}
    if distributed != "auto":
        match = re.fullmatch(r"(.+:\d+),(\d+),(\d+)", distributed)
        if not match or int(match[3]) >= int(match[2]):
            raise ConfigError(
                f"--distributed {distributed}: should be auto or HOST:PORT,COUNT,ID, with ID from "
                "0 to COUNT - 1"
            )
        address = match[1]
        given = {
            "coordinator_address": address,
            "num_processes": int(match[2]),
            "process_id": int(match[3]),
            "cluster_detection_method": "deactivate",
        }
        if address.startswith("127."):
            # By default the first process listens on all interfaces.
            given["coordinator_bind_address"] = address
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # The preemption service's handler for SIGTERM would replace jaxch5's.
    jax.config.update("jax_enable_preemption_service", False)
    _on_abort(NOBODY)
    try:
        jax.distributed.initialize(
            **given,
            initialization_timeout=START_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except ValueError as error:
        raise ConfigError(
            f"--distributed auto: cannot tell who the other processes are ({error}); pass "
            "--distributed HOST:PORT,COUNT,ID"
        ) from None
    except RuntimeError as error:
        raise TrainingError(f"{NOBODY}: {str(error).splitlines()[0]}") from None
    _on_abort(f"{_who()}: {LOST}")
    _keep_output()


def _keep_output() -> None:
    """Keeps standard output free of what Gloo, the CPU's message library, prints about itself."""
    if jax.default_backend() == "cpu":
        sys.stdout.flush()
        sys.stdout = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
        os.dup2(2, 1)


_Handler = ctypes.CFUNCTYPE(None, ctypes.c_int)
# Python must not free a function that C may call.
_handlers: list[Any] = []


def _on_abort(line: str) -> None:
    """Makes the process end with one line when JAX aborts it because its peers are lost.

    JAX would print pages and exit with its own status. The handler is installed through C, because
    one in Python would wait until the main thread executes Python code, which may never happen.
    """

    @_Handler
    def aborted(number: int) -> None:
        _leave(f"{line}\n")

    _handlers.append(aborted)
    library = ctypes.CDLL(None)
    library.signal.argtypes = [ctypes.c_int, _Handler]
    library.signal(int(signal.SIGABRT), aborted)


def leave(line: str = "", status: int = 1) -> NoReturn:
    """Ends this process at once; an orderly exit would first wait for the others."""
    _leave(f"{_who()}: {line}\n" if line else "", status)


def _leave(line: str, status: int = 1) -> NoReturn:
    if not _leaving.acquire(blocking=False):
        # Another thread is already ending the process.
        threading.Event().wait()
    os.write(2, line.encode())
    sys.stdout.flush()
    os._exit(status)


def _who() -> str:
    return f"process {jax.process_index()} of {jax.process_count()}"


def joined() -> bool:
    """Checks whether there are other processes."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
    """Checks whether this is the process that prints and writes for all."""
    return jax.process_index() == 0


def is_loss_of_another(error: Exception) -> bool:
    """Checks whether an error comes from a message to a process that has ended."""
    failed = isinstance(error, (ValueError, jax.errors.JaxRuntimeError))
    return joined() and failed and bool(re.search(UNREACHABLE, str(error)))


def gather(text: str) -> list[str]:
    """Returns the texts that the processes have passed, in the order of the processes.

    Raises:
        OfAnother: Another process has failed within `failing_together`.
    """
    if not joined():
        return [text]
    texts = _exchange(text)
    for number, other in enumerate(texts):
        if other.startswith(FAILED):
            status, message = json.loads(other.removeprefix(FAILED))
            raise OfAnother(f"{message} (in process {number})", status)
    return texts


def _exchange(text: str) -> list[str]:
    own = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(own)))
    padded = np.zeros(max(1, lengths.max()), np.uint8)
    padded[: len(own)] = own
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row[:length]).decode() for row, length in zip(rows, lengths, strict=True)]


class OfAnother(Jaxch5Error):
    """An error of another process, with the exit status that it has there."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@contextmanager
def failing_together() -> Iterator[None]:
    """Makes an error in one process an error in all of them.

    While a process is in this context, it must communicate only by `gather` and by functions that
    call it. A process that fails passes its error in the place of the text that the others wait
    for. A process that is told to stop ends at once, and the others then end because it is lost.

    Raises:
        OfAnother: Another process has failed.
    """
    try:
        yield
        gather("")
    except Jaxch5Error as error:
        if joined():
            if not isinstance(error, OfAnother):
                _exchange(FAILED + json.dumps([error.exit_code, str(error)]))
            # All processes are here, so they can part; none of them then waits for another.
            jax.distributed.shutdown()
        raise
    except (KeyboardInterrupt, Terminated) as stop:
        if joined():
            status = 143 if isinstance(stop, Terminated) else 130
            leave("was told to stop before training began", status)
        raise


def on_this_host() -> int:
    """Returns how many of the processes run on this host, this one included."""
    own = platform.node()
    return gather(own).count(own)


def agree(values: Mapping[str, Any]) -> None:
    """Checks that values are the same in all processes.

    Args:
        values: JSON values, keyed by name.

    Raises:
        ConfigError: A value differs between processes; all of them raise the error.
    """
    everywhere = [json.loads(text) for text in gather(json.dumps(values))]
    for number, others in enumerate(everywhere):
        for name, value in everywhere[0].items():
            if others.get(name) != value:
                raise ConfigError(
                    f"{name}: {value} in process 0 but {others.get(name)} in process {number}; "
                    "start all processes in the same way"
                )


def first_then_others(function: Callable[[], T]) -> T:
    """Calls a function in the first process, then in the others, and returns its result.

    Processes that share a cache then download only once.
    """
    if not joined():
        return function()
    result = function() if is_first() else None
    gather("")
    return function() if result is None else result


def of_first(tree: PyTree) -> PyTree:
    """Returns the first process's arrays in every process."""
    return multihost_utils.broadcast_one_to_all(to_host(tree)) if joined() else tree


def agreed_check(interrupts: Interrupts) -> Callable[[], None]:
    """Returns a function like `Interrupts.check` that stops all processes at the same call.

    Every few calls, the processes exchange the requests to stop that they have received. They read
    the result of an exchange only at the next exchange, so that no process has to wait for it.
    """
    if not joined():
        return interrupts.check
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("device",))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("device"))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    largest = jax.jit(lambda asked: asked.max(), out_shardings=everywhere)
    told: deque[jax.Array] = deque()
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls % CALLS_BETWEEN:
            return
        own = np.full(jax.local_device_count(), interrupts.asked or 0, np.int32)
        told.append(largest(jax.make_array_from_process_local_data(rows, own)))
        if len(told) > 1 and (asked := int(told.popleft())):
            interrupts.obey(asked)

    return check
