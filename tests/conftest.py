"""Provides what tests share: how a test run ends, where programs are cached, and pictures."""

import contextlib
import ctypes
import gc
import io
import os
import select
import shutil
import signal
import tempfile
import threading
import time
from pathlib import Path

import hypothesis
import jax
import numpy as np
import psutil
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from PIL import Image
from rich.console import Console

from jaxch5.training.precision import has_float16
from jaxch5.util.libraries import variable


class Termination:
    """Ends the test run when the run receives SIGTERM, whatever handler a test has set for it.

    Besides calling a signal's handler, Python writes the signal's number to a pipe, which this
    class reads. A test that sends SIGTERM to its own process does so through the fixture
    `raise_signal`, so that the signal is not mistaken for one that should end the run.
    """

    STATUS = 128 + signal.SIGTERM
    # How long the run waits for a test that goes on after the signal.
    SECONDS = 5.0

    def __init__(self):
        self.own = 0
        self.asked = False
        self.controls_workers = False
        self.reading = threading.Lock()
        self.reader, self.writer = os.pipe()
        for end in (self.reader, self.writer):
            os.set_blocking(end, False)

    def has_come(self):
        with self.reading, contextlib.suppress(BlockingIOError):
            for number in os.read(self.reader, 64):
                if number == signal.SIGTERM and self.own:
                    self.own -= 1
                elif number == signal.SIGTERM:
                    self.asked = True
        return self.asked

    def watch(self):
        while not self.has_come():
            select.select([self.reader], [], [])
        if self.controls_workers:
            for worker in psutil.Process().children():
                worker.terminate()
        time.sleep(self.SECONDS)
        self.clear()
        os._exit(self.STATUS)

    def clear(self):
        """Kills the processes that tests have started, and removes the folder in HF_HOME."""
        for child in psutil.Process().children(recursive=True):
            child.kill()
        shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)


termination = Termination()


def pytest_configure(config):
    # Garbage is collected less often, as in commands: tracing makes and drops many small objects,
    # and each full collection goes through everything that was imported.
    gc.set_threshold(50_000, 20, 50)

    def end(number, frame):
        raise pytest.exit.Exception("terminated", Termination.STATUS)

    signal.signal(signal.SIGTERM, end)
    # A shell starts its background processes with interrupts ignored, and the processes that a test
    # starts would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    termination.controls_workers = config.pluginmanager.hasplugin("dsession")
    threading.Thread(target=termination.watch, daemon=True).start()


def pytest_runtest_logstart():
    # This is set again before each test, because an asyncio event loop redirects the signals'
    # numbers to itself, and once the loop is closed, the numbers are discarded.
    signal.set_wakeup_fd(termination.writer, warn_on_full_buffer=False)


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport():
    """Ends the run if it received SIGTERM during a test whose own handler caught the signal."""
    if termination.has_come():
        pytest.exit("terminated", Termination.STATUS)


def pytest_unconfigure():
    if termination.asked:
        termination.clear()
    shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)


@pytest.fixture
def raise_signal():
    """A function that sends this process a signal that does not end the test run."""

    def send(number):
        termination.own += number == signal.SIGTERM
        signal.raise_signal(number)

    return send


def pytest_collection_modifyitems(items):
    """Puts files with slow tests first, so that no worker is left alone with them at the end."""
    with_slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in with_slow)


def pytest_runtest_setup(item):
    if item.get_closest_marker("float16") and not has_float16():
        pytest.skip("float16 cannot be computed here")


@pytest.fixture(autouse=True, scope="session")
def compiled_programs(tmp_path_factory):
    """Lets tests, and the commands that they start, compile each program only once per session.

    Compiled programs are kept in JAX_COMPILATION_CACHE_DIR, or else in a temporary folder.
    """
    folder = tmp_path_factory.getbasetemp()
    # If there are several workers, each has its own folder inside that of the session.
    shared = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    kept = variable("JAX_COMPILATION_CACHE_DIR") or str(shared / "compiled")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = kept
    jax.config.update("jax_compilation_cache_dir", kept)
    # Writing a file takes only milliseconds, but by default, programs that compile in less than a
    # second are not kept. The variable is for processes that tests start, the setting for this one.
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    # If a program was compiled while tests were collected, jax has settled on having no cache.
    reset_cache()


# Compiling takes longer than all computations do, so XLA optimizes little in these tests and in the
# commands that they start. Results differ only by rounding, and take a quarter of the time. XLA
# reads these flags when it is first used. Tests that measure what a user's programs achieve remove
# the flags with `usual_compiler`.
QUICK = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_parallel_codegen_split_count=1 "
)
if jax.__version_info__ < (0, 11):
    # Later versions do not know this flag, and an unknown flag ends the process.
    QUICK += "--xla_cpu_use_fusion_emitters=false "
# A worker inherits the flags that were set in the process that started it.
GIVEN = os.environ.get("XLA_FLAGS", "").removeprefix(QUICK)
os.environ["XLA_FLAGS"] = QUICK + GIVEN

# How long an example takes depends on the machine, and is not a property of the code under test.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

# Tests behave alike with and without a network. The Hub's library reads these variables when it is
# imported.
os.environ["HF_HUB_OFFLINE"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:
    # A worker's folder is inside that of the process that started it, and is removed with it.
    os.environ["HF_HOME"] += f"/{os.environ['PYTEST_XDIST_WORKER']}"
else:
    os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="jaxch5-tests-")


@pytest.fixture(autouse=True, scope="module")
def few_programs_in_memory():
    """Frees the memory of compiled programs after each module; without this, a worker took 12 GB.

    jax keeps compiled programs for as long as they may be used, and the suite has many. In
    addition, commands that tests run in this process make glibc keep the memory that is freed
    (`keep_freed_memory`).
    """
    yield
    jax.clear_caches()
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


@pytest.fixture(scope="session")
def usual_compiler():
    """The environment for commands whose programs should be compiled as a user's are."""
    return os.environ | {"XLA_FLAGS": GIVEN}


@pytest.fixture(scope="session")
def flowers():
    """A folder of real photographs, with train/ and valid/."""
    folder = variable("JAXCH5_FLOWERS")
    if folder is None:
        pytest.skip("JAXCH5_FLOWERS does not name a folder of photographs")
    return Path(folder)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A folder of two classes, told apart by colour, each with 20 pictures of various sizes."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, color in (("blue", (40, 60, 200)), ("red", (200, 60, 40))):
        (root / name).mkdir()
        for number in range(20):
            height, width = rng.integers(30, 90, 2)
            pixels = rng.normal(color, 40, (height, width, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.jpg")
    return root


@pytest.fixture(scope="session")
def trained(pictures, tmp_path_factory):
    """The folder of a run of one epoch, and the learner that made the run."""
    from jaxch5.config.building import load_data
    from jaxch5.config.settings import Config
    from jaxch5.configured import learner_of
    from jaxch5.run.directory import create_run

    config = Config.model_validate(
        {
            "data": {"path": pictures, "presize": 36, "size": 32, "batch_size": 8},
            "model": {"weights": "none"},
            "fit": {"epochs": 1},
        }
    )
    learn = learner_of(load_data(config), config)
    learn.console = Console(file=io.StringIO())
    learn.run = create_run(config, tmp_path_factory.mktemp("trained") / "run")
    learn.fit_one_cycle(1, 3e-3)
    return learn.run.path, learn


@pytest.fixture(scope="session")
def chromium():
    """The system's browser, driven over its debugging protocol."""
    playwright = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no chromium on PATH")
    with playwright.sync_playwright() as driver:
        # Chromium's sandbox does not start for root, and containers run tests as root.
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def new_tab(chromium):
    """A function that opens a tab of the browser, closed after the test.

    The tab collects its errors and dialogs in `complaints`, and the addresses that it requests in
    `requests`.
    """
    contexts = []

    def open_tab(width, **context):
        contexts.append(chromium.new_context(viewport={"width": width, "height": 800}, **context))
        tab = contexts[-1].new_page()
        tab.complaints, tab.requests = [], []
        tab.on("pageerror", lambda error: tab.complaints.append(str(error)))
        tab.on(
            "console",
            lambda message: message.type == "error" and tab.complaints.append(message.text),
        )
        tab.on("dialog", lambda dialog: (tab.complaints.append("dialog"), dialog.dismiss()))
        tab.on("request", lambda request: tab.requests.append(request.url))
        return tab

    yield open_tab
    for context in contexts:
        context.close()
