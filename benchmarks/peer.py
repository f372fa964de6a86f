"""Runs the other side of a benchmark: a script in the peer's interpreter that answers requests.

The peers are installed in an environment of their own, from requirements.txt, and
JAXCH5_PEER_PYTHON names the Python interpreter of this environment. A benchmark starts a script in
that interpreter, sends it one JSON request per line, and reads one line in answer to each request.
Between requests the peer's process is idle. Importing this module needs neither side's packages.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any


def peer_python(required: bool = False) -> str | None:
    """Returns the peer's interpreter; if none is named, it returns None or, if required, exits."""
    python = os.environ.get("JAXCH5_PEER_PYTHON") or None
    if required and not python:
        sys.exit(
            "JAXCH5_PEER_PYTHON should name the interpreter of the peer, that is, of an "
            "environment installed from benchmarks/requirements.txt"
        )
    return python


class Peer:
    """Runs a script that answers requests (see `answer_requests`) in the peer's interpreter.

    It is a context manager; the script ends when the context is left.
    """

    def __init__(self, python: str, script: str | Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [python, str(script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **request: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the peer ended; its message is above")
        return json.loads(line)

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()


def answer_requests(answer: Callable[[dict[str, Any]], Any]) -> None:
    """Runs the peer's side: answers one request after another until there are no more."""
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


def declare_torchvision_operators() -> None:
    """Makes torchvision importable if its compiled part does not fit the installed PyTorch.

    When torchvision is imported, it registers fake implementations of the operators below, which
    therefore have to be defined, although nothing here calls them. If torchvision can be imported
    without that, nothing is defined, because an operator can be defined only once.
    """
    import torch

    with contextlib.suppress(RuntimeError):
        import torchvision  # noqa: F401

        return
    for operator in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):
            schema = "(Tensor boxes, Tensor scores, float threshold) -> Tensor"
            torch.library.define(f"torchvision::{operator}", schema)
