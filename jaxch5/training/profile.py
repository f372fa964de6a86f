"""Where the time of a step goes: a trace of some steps, for Perfetto, and a table made of it.

Each moment of the traced steps is given to the operations that run in it, in equal parts, and each
operation to a kind by the scope that it comes from, which the compiled program remembers. So the
kinds add up to the whole, what overlaps is counted once, and a device without work shows.
"""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxch5.data.pipeline import WAITING
from jaxch5.training.loop import Epoch, Step

# The first steps find caches empty and clocks low.
WARM_UP = 5
STEPS = 10
# Name in the trace of what lies between the first traced step and the last one's end.
TRACED = "traced steps"

# The first that is found in an operation's scope is its kind. A fusion has the scope of its last
# operation, so that an activation counts to what it was fused with.
KINDS = (
    ("augmentation", r"/augment/"),
    ("optimizer", r"/update/"),
    ("pooling", r"max_pool|reduce_window|select_and_"),
    ("batch norm", r"/(bn\d|downsample_1|\w*BatchNorm\w*)/"),
    ("convolution", r"conv|/downsample_0/|Conv_"),
    ("head and loss", r"/head/|dot_general|softmax|loss"),
    ("copies", r"^copy|_copy| copy|Memcpy|Memset"),
    ("activations", r"relu|select_n|/max"),
)
OTHERS = "other operations"
PROGRAMS = "other programs"
NO_PICTURES = "idle, waiting for pictures"
IDLE = "idle"


class Operation(NamedTuple):
    """Something that ran on a thread or a stream; nested ones lie within others."""

    begin: float
    end: float
    kind: str
    thread: Any = 0


class Trace(NamedTuple):
    """What a profiler saw. All times are microseconds.

    Attributes:
        window: from the begin of the first step to the end of the last.
        operations: of the device.
        running: spans in which a CPU runs a program. A part that it hands to other threads has no
            operation of its own there, so the one before counts until the next.
        waiting: spans in which the loop waits for a batch.
    """

    window: tuple[float, float]
    operations: list[Operation]
    running: list[tuple[float, float]]
    waiting: list[tuple[float, float]]


def profiled(
    events: Iterable[Step | Epoch],
    folder: Path,
    program: Any,
    steps_per_epoch: int,
    say: Callable[[str], None],
) -> Iterator[Step | Epoch]:
    """Passes the loop's events on, and traces some steps of one epoch after the first few.

    Args:
        events: what `fit` yields.
        folder: where the trace is written.
        program: the compiled training step.
        steps_per_epoch: how many; a trace ends with its epoch.
        say: takes the lines of the table.
    """
    passed = done = first = 0
    ended = False
    with ExitStack() as tracing:
        for event in events:
            if isinstance(event, Step):
                passed += 1
                done = event.number
            at_end = isinstance(event, Step) and done % steps_per_epoch == 0
            starts = not first and passed >= WARM_UP and not at_end
            if first and not ended and (at_end or done - first >= STEPS):
                jax.block_until_ready(event.state)
                tracing.close()
                ended = True
                shares = time_shares(read_trace(folder, scopes(program.as_text())))
                for line in table(shares, done - first, folder):
                    say(line)
            elif starts:
                jax.block_until_ready(event.state)
            yield event
            if starts:
                # Not before, because what is made of an event, a checkpoint say, is no part of it.
                tracing.enter_context(_trace(folder))
                tracing.enter_context(jax.profiler.TraceAnnotation(TRACED))
                first = done
    if not ended:
        say(f"--profile: training ended before {WARM_UP + 1} steps, nothing was traced")


def _trace(folder: Path) -> Any:
    options = jax.profiler.ProfileOptions()
    # Each call of each function would be an event.
    options.python_tracer_level = 0
    return jax.profiler.trace(folder, create_perfetto_trace=True, profiler_options=options)


def trace_file(folder: Path) -> Path:
    """The newest trace that was written into a folder; https://ui.perfetto.dev opens it."""
    return max(folder.glob("plugins/profile/*/perfetto_trace.json.gz"))


def read_trace(folder: Path, scopes: Mapping[str, str]) -> Trace:
    """The newest trace in a folder.

    Args:
        folder: where the profiler wrote.
        scopes: of the training step's operations, by name.
    """
    with gzip.open(trace_file(folder), "rt", encoding="utf-8") as file:
        return parse(json.load(file)["traceEvents"], scopes)


def parse(events: Iterable[Mapping[str, Any]], scopes: Mapping[str, str]) -> Trace:
    """What the events of a trace say, as Chrome's format has them; see `read_trace`.

    Of several devices, the first is taken.
    """
    # The list ends with an empty one.
    events = [event for event in events if event]
    names = {
        (event["name"], event["pid"], event.get("tid")): event["args"]["name"]
        for event in events
        if event["ph"] == "M" and "name" in event.get("args", {})
    }
    processes = {pid: name for (key, pid, _), name in names.items() if key == "process_name"}
    devices = sorted(name for name in processes.values() if name.startswith("/device:"))
    threads = {
        (pid, tid): name
        for (key, pid, tid), name in names.items()
        if key == "thread_name" and devices and processes.get(pid) == devices[0]
    }
    # A GPU's operations are on the lines of its streams, and once more on lines made of them.
    streams = {line for line, name in threads.items() if name.startswith("Stream")}
    lines = streams or {line for line, name in threads.items() if name == "XLA Ops"}
    operations, running, waiting = [], [], []
    window = (0.0, 0.0)
    for event in events:
        if event["ph"] != "X":
            continue
        name, line = event["name"], (event["pid"], event["tid"])
        span = (float(event["ts"]), float(event["ts"]) + float(event.get("dur", 0.0)))
        arguments = event.get("args", {})
        if name == TRACED:
            window = span
        elif name == WAITING:
            waiting.append(span)
        elif line in lines or (not devices and "hlo_op" in arguments):
            operations.append(Operation(*span, kind_of(name, arguments, scopes), line))
        elif not devices and name.startswith("ThunkExecutor::Execute"):
            running.append(span)
    return Trace(window, operations, running, waiting)


def kind_of(name: str, arguments: Mapping[str, Any], scopes: Mapping[str, str]) -> str:
    """The kind of an operation: one of `KINDS`, or what is left.

    Args:
        name: of the event, a kernel's on a GPU.
        arguments: of the event, which name the operation and its program.
        scopes: of the training step's operations, by name.

    Example:
        >>> kind_of("fusion.1", {"hlo_op": "fusion.1"}, {"fusion.1": "jit(f)/layer1_0/bn1/add"})
        'batch norm'
        >>> kind_of("MemcpyH2D", {}, {})
        'copies'
    """
    operation = arguments.get("hlo_op")
    if operation is not None and operation not in scopes:
        return PROGRAMS
    scope = scopes.get(operation, "") if operation else name
    return next((kind for kind, pattern in KINDS if re.search(pattern, scope)), OTHERS)


def scopes(program: str) -> dict[str, str]:
    """Where each operation of a compiled program comes from: scope and opcode, by its name.

    Args:
        program: as `compiled.as_text()` prints it.

    Example:
        >>> scopes('  %add.1 = f32[2]{0} add(%a, %b), metadata={op_name="jit(f)/bn1/add"}')
        {'add.1': 'jit(f)/bn1/add add'}
    """
    found = {}
    for line in program.splitlines():
        match = re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = (?:\(.*?\)|\S+) ([\w\-]+)\(", line)
        if match:
            # What the compiler adds of its own comes from no scope; it has a telling name.
            scope = re.search(r'op_name="([^"]*)"', line)
            found[match[1]] = f"{scope[1] if scope else match[1]} {match[2]}"
    return found


def time_shares(trace: Trace) -> dict[str, float]:
    """Microseconds of each kind; together they are the window.

    Example:
        >>> conv, copy = Operation(0, 4, "convolution", 1), Operation(2, 4, "copies", 2)
        >>> time_shares(Trace((0, 10), [conv, copy], [], [(4, 7)]))
        {'convolution': 3.0, 'copies': 1.0, 'idle, waiting for pictures': 3.0, 'idle': 3.0}
    """
    begin, end = trace.window
    # Ends come before begins at the same time, and what lies within after what it lies in.
    points: list[tuple[float, int, float, str, Any]] = []
    for number, operation in enumerate(trace.operations):
        if operation.begin < operation.end:
            points.append((operation.begin, 1, -operation.end, "operation", number))
            points.append((operation.end, 0, -operation.begin, "operation", number))
    for what, spans in (("running", trace.running), ("waiting", trace.waiting)):
        for start, stop in spans:
            points += [(start, 1, 0.0, what, 1), (stop, 0, 0.0, what, -1)]
    points.append((end, 2, 0.0, "end", 0))

    shares: defaultdict[str, float] = defaultdict(float)
    active: dict[Any, list[int]] = defaultdict(list)
    depth: Counter[str] = Counter()
    last, before = IDLE, begin
    for time, opening, _, what, number in sorted(points, key=lambda point: point[:3]):
        length = min(time, end) - max(before, begin)
        if length > 0:
            innermost = [stack[-1] for stack in active.values() if stack]
            kinds = [trace.operations[one].kind for one in innermost]
            if not kinds and depth["running"]:
                kinds = [last]
            elif not kinds:
                kinds = [NO_PICTURES if depth["waiting"] else IDLE]
            for kind in kinds:
                shares[kind] += length / len(kinds)
        before = max(before, time)
        if what == "operation":
            operation = trace.operations[number]
            last = operation.kind
            stack = active[operation.thread]
            stack.append(number) if opening else stack.remove(number)
        else:
            depth[what] += number
    return dict(shares)


def table(shares: Mapping[str, float], steps: int, folder: Path) -> Iterator[str]:
    """Lines for people: what a step takes, and of that each kind, the longest first.

    Args:
        shares: microseconds of all steps, by kind.
        steps: how many were traced.
        folder: where the trace is.
    """
    total = max(sum(shares.values()), 1e-9)
    yield f"a step takes {total / steps / 1e3:.2f} ms, of {steps} traced, which are to be seen at"
    yield f"https://ui.perfetto.dev in {trace_file(folder)}"
    for kind, time in sorted(shares.items(), key=lambda share: -share[1]):
        share = 100 * time / total
        yield f"{kind:<{len(NO_PICTURES)}}  {time / steps / 1e3:9.2f} ms  {share:5.1f} %"
