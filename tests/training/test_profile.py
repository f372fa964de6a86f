"""The profile: every moment of the traced steps is given to something, and to it alone."""

import pytest

from jaxch5.train import main
from jaxch5.training.profile import (
    IDLE,
    NO_PICTURES,
    OTHERS,
    PROGRAMS,
    TRACED,
    WAITING,
    Operation,
    Trace,
    kind_of,
    parse,
    scopes,
    time_shares,
)


def span(name, begin, end, tid=1, pid=1, **args):
    return {
        "ph": "X",
        "name": name,
        "pid": pid,
        "tid": tid,
        "ts": begin,
        "dur": end - begin,
        "args": args,
    }


def name_of(kind, pid, name, tid=0):
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}


def test_what_lies_within_counts_once():
    """A loop's operation spans those of its body."""
    loop, body = Operation(0, 10, "head and loss"), Operation(2, 6, "copies")
    assert time_shares(Trace((0, 10), [loop, body], [], [])) == {"head and loss": 6, "copies": 4}


def test_what_lies_outside_does_not_count():
    operation = Operation(0, 100, "copies")
    assert time_shares(Trace((40, 60), [operation], [], [])) == {"copies": 20}


def test_a_cpu_goes_on_with_what_it_handed_to_other_threads():
    """Between two operations of a running program the first is still at work elsewhere."""
    operations = [Operation(0, 2, "convolution"), Operation(8, 9, "copies")]
    shares = time_shares(Trace((0, 12), operations, [(0, 9)], [(10, 11)]))
    assert shares == {"convolution": 8, "copies": 1, IDLE: 2, NO_PICTURES: 1}


def test_the_lines_of_a_gpus_streams_are_read_and_those_made_of_them_are_not():
    events = [
        name_of("process_name", 1, "/host:CPU"),
        name_of("process_name", 2, "/device:GPU:0"),
        name_of("process_name", 3, "/device:GPU:1"),
        name_of("thread_name", 2, "Stream #13(Compute)", 7),
        name_of("thread_name", 2, "XLA Ops", 8),
        name_of("thread_name", 3, "Stream #13(Compute)", 7),
        span(TRACED, 0, 10),
        span(WAITING, 6, 8),
        span("fusion.1", 0, 4, 7, 2, hlo_op="fusion.1"),
        span("fusion.1", 0, 4, 8, 2, hlo_op="fusion.1"),
        span("fusion.1", 0, 10, 7, 3, hlo_op="fusion.1"),
        span("MemcpyH2D", 4, 5, 7, 2),
        {},
    ]
    trace = parse(events, {"fusion.1": "jit(f)/augment/add fusion"})
    shares = time_shares(trace)
    assert shares == {"augmentation": 4, "copies": 1, IDLE: 3, NO_PICTURES: 2}


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ('fusion.1 = (f32[2], f32[3]) fusion(%a), metadata={op_name="jit(f)/update/mul"}', 0),
        ('ROOT %c.2 = f32[2]{0} custom-call(%a), metadata={op_name="jit(f)/layer1_0/conv1/c"}', 1),
        ('%dot = f32[2] dot(%a), metadata={op_name="jit(f)/transpose(jvp(N))/head/dot"}', 2),
        ("%copy.2 = f32[2]{0} copy(%a)", 3),
        ("%copy-start = f32[2]{0} copy-start(%a)", 3),
        ('%s = f32[2]{0} fusion(%a), metadata={op_name="jit(f)/layer1_0/jit(relu)/max"}', 4),
        ("%fusion.3 = f32[2]{0} fusion(%a)", 5),
    ],
)
def test_an_operation_is_known_by_the_scope_it_comes_from(line, kind):
    kinds = ("optimizer", "convolution", "head and loss", "copies", "activations", OTHERS)
    (name,) = found = scopes(f"  {line}")
    assert kind_of("kernel", {"hlo_op": name}, found) == kinds[kind]
    assert kind_of("kernel", {"hlo_op": "elsewhere"}, found) == PROGRAMS


def test_a_run_says_where_its_time_goes(pictures, tmp_path, capsys, monkeypatch):
    """The kinds add up to the step, each part of a step is among them, and the trace is there."""
    arguments = [
        *("--data.path", pictures, "--data.presize", 48, "--data.size", 32),
        *("--data.batch-size", 8, "--model.weights", "none", "--fit.epochs", 2),
        *("--workdir", tmp_path / "run", "--profile"),
    ]
    monkeypatch.setattr("sys.argv", ["train", *map(str, arguments)])
    assert main() == 0
    lines = capsys.readouterr().out.splitlines()
    (head,) = [number for number, line in enumerate(lines) if line.startswith("a step takes ")]
    rows = [line.rsplit(maxsplit=4) for line in lines[head + 2 :] if line.endswith(" %")]
    shown = {row[0].strip(): (float(row[1]), float(row[3])) for row in rows if row[2] == "ms"}
    step = float(lines[head].split()[3])
    assert sum(time for time, _ in shown.values()) == pytest.approx(step, abs=0.06)
    assert sum(share for _, share in shown.values()) == pytest.approx(100, abs=0.6)
    assert {"convolution", "batch norm", "optimizer", "pooling", "augmentation"} <= set(shown)
    assert shown["convolution"][0] > shown["pooling"][0] > 0
    written = list((tmp_path / "run" / "profile" / "one_cycle").rglob("perfetto_trace.json.gz"))
    assert len(written) == 1
    assert lines[head + 1].endswith(str(written[0]))
