"""Fixtures for tests of networks: random weights, a hub, and another interpreter with PyTorch."""

import hashlib
import math
import subprocess
import threading
from collections import Counter
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from huggingface_hub import constants

from jaxch5.models.registry import create_model
from jaxch5.util.libraries import variable


@pytest.fixture(scope="session")
def random_variables():
    """Provides a function that returns random variables of a ResNet.

    None of them has the value with which a new network begins.
    """

    def draw(arch, num_classes=3, head="linear", seed=0):
        rng = np.random.default_rng(seed)

        def leaf(path, shape):
            name = path[-1].key
            if name == "var":
                return rng.uniform(0.5, 1.5, shape).astype(np.float32)
            values = rng.standard_normal(shape, np.float32)
            if name == "kernel":
                return values / np.float32(math.sqrt(np.prod(shape[:-1])))
            return np.float32(0.1) * values + np.float32(name == "scale")

        init = partial(create_model(arch, num_classes, head).init, train=False)
        shapes = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
        return jax.tree_util.tree_map_with_path(lambda path, like: leaf(path, like.shape), shapes)

    return draw


@pytest.fixture(scope="session")
def peer():
    """Provides a function that runs a program in the interpreter that JAXCH5_PEER_PYTHON names."""
    python = variable("JAXCH5_PEER_PYTHON")
    if python is None:
        pytest.skip("JAXCH5_PEER_PYTHON names no interpreter with torchvision, timm and fastai")
    specs = "map(importlib.util.find_spec, ('torch', 'torchvision', 'timm', 'fastai'))"
    has_all = f"import importlib.util, sys; sys.exit(not all({specs}))"
    if subprocess.run([python, "-c", has_all], check=False).returncode:
        pytest.skip(f"{python} has no torch, torchvision, timm or fastai")

    def run(program, folder):
        done = subprocess.run(
            [python, "-c", program], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    return run


class Hub:
    """A server on the loopback address that answers as the Hugging Face hub does for large files.

    It describes a file and redirects to another host, which has the file's content. If something
    does not exist, it answers with an error code.

    `repositories` maps the name of each repository, or NAME@REVISION, to its files, which are in
    turn keyed by name. `trouble` makes the server misbehave: it is the status of every answer, or
    "hangs up", "no description", "no weights", "other size", "a path for an etag" or "a path for a
    commit".
    """

    def __init__(self, repositories):
        self.repositories, self.trouble, self.asked = repositories, None, Counter()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def stop(self):
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    def found(self, path):
        """Returns a file's content and commit, or the status and error code of the hub's answer."""
        repository, _, rest = path.lstrip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        if repository not in self.repositories:
            # The hub does not tell anonymous clients whether a repository exists.
            return 401, "RepoNotFound"
        commits = {
            hashlib.sha1(place.encode()).hexdigest(): files
            for place, files in self.repositories.items()
            if place.partition("@")[0] == repository
        }
        of = repository if revision == "main" else f"{repository}@{revision}"
        commit = hashlib.sha1(of.encode()).hexdigest() if of in self.repositories else revision
        if commit not in commits:
            return 404, "RevisionNotFound"
        return (
            (commits[commit][name], commit) if name in commits[commit] else (404, "EntryNotFound")
        )

    def _handler(hub):
        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self):
                self.answer()

            def do_GET(self):
                self.answer()

            def answer(self):
                hub.asked[self.command] += 1
                elsewhere = self.path.startswith("/elsewhere")
                content, commit = hub.found(self.path.removeprefix("/elsewhere"))
                described = self.path.endswith("config.json")
                if hub.trouble == "hangs up" or (hub.trouble == "no description" and described):
                    return
                if isinstance(hub.trouble, int):
                    self.send_error(hub.trouble)
                elif hub.trouble == "no weights" and elsewhere and not described:
                    self.send_error(403)
                elif isinstance(content, int):
                    self.send_response(content)
                    self.send_header("X-Error-Code", commit)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                elif not elsewhere:
                    size = len(content) + (hub.trouble == "other size")
                    self.send_response(302)
                    path = "../" * 5 + "outside"
                    commit = path if hub.trouble == "a path for a commit" else commit
                    digest = hashlib.sha256(content).hexdigest()
                    etag = path if hub.trouble == "a path for an etag" else digest
                    self.send_header("X-Repo-Commit", commit)
                    self.send_header("X-Linked-ETag", f'"{etag}"')
                    self.send_header("X-Linked-Size", str(size))
                    port = self.server.server_port
                    self.send_header("Location", f"http://localhost:{port}/elsewhere{self.path}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                else:
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    if self.command == "GET":
                        self.wfile.write(content)

            def log_message(self, *arguments):
                pass

        return Handler


@pytest.fixture
def serve(monkeypatch):
    """Provides a function that starts a hub with given repositories, and turns offline mode off."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hubs = []

    def serve(repositories):
        hubs.append(Hub(repositories))
        return hubs[-1]

    yield serve
    for hub in hubs:
        hub.stop()
