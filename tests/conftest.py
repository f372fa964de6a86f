"""What tests share: how a run ends, where programs are cached, and pictures to train on."""

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
    """Ends the run when it is sent SIGTERM, whatever handler a test has for that.

    Python writes the number of a signal that has a handler to a file, too. A test that sends itself
    the signal does so by the fixture `raise_signal`, so that it is not taken for the run's.
    """

    STATUS = 128 + signal.SIGTERM
    # How long a test that goes on is waited for.
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
        """Ends what tests have started, and leaves nothing."""
        for child in psutil.Process().children(recursive=True):
            child.kill()
        shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)


termination = Termination()


def pytest_configure(config):
    # As in a command: tracing makes and drops many small objects, and each full collection walks
    # all that was imported.
    gc.set_threshold(50_000, 20, 50)

    def end(number, frame):
        raise pytest.exit.Exception("terminated", Termination.STATUS)

    signal.signal(signal.SIGTERM, end)
    # A shell starts what runs in its background with interrupts ignored, and what a test starts
    # inherits that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    termination.controls_workers = config.pluginmanager.hasplugin("dsession")
    threading.Thread(target=termination.watch, daemon=True).start()


def pytest_runtest_logstart():
    # Before each test, for a loop of asyncio has the numbers written elsewhere, and then nowhere.
    signal.set_wakeup_fd(termination.writer, warn_on_full_buffer=False)


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport():
    """A test that was to end the run and had a handler that ended the test."""
    if termination.has_come():
        pytest.exit("terminated", Termination.STATUS)


def pytest_unconfigure():
    if termination.asked:
        termination.clear()
    shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)


@pytest.fixture
def raise_signal():
    """A function: sends this process a signal that is the test's own."""

    def send(number):
        termination.own += number == signal.SIGTERM
        signal.raise_signal(number)

    return send


def pytest_collection_modifyitems(items):
    """Files with slow tests first, so that no worker is left with one when the others are done."""
    with_slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in with_slow)


def pytest_runtest_setup(item):
    if item.get_closest_marker("float16") and not has_float16():
        pytest.skip("float16 cannot be computed here")


@pytest.fixture(autouse=True, scope="session")
def compiled_programs(tmp_path_factory):
    """Tests and the commands they start compile each program once a session, and leave nothing."""
    folder = tmp_path_factory.getbasetemp()
    # Of several workers, each has a folder of its own in the session's.
    shared = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    kept = variable("JAX_COMPILATION_CACHE_DIR") or str(shared / "compiled")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = kept
    jax.config.update("jax_compilation_cache_dir", kept)
    # A file takes milliseconds. By default what compiles in less than a second is not kept, here or
    # by a process that a test starts.
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    # What was compiled while tests were collected has fixed that there is no cache.
    reset_cache()


# Compiling takes longer than all that is computed, so XLA compiles with little care, in these tests
# and the commands that they start; it reads this when it is first used. The same arithmetic, a
# quarter of the time. Where what a user gets is measured, `usual_compiler` has it back.
QUICK = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_parallel_codegen_split_count=1 "
)
if jax.__version_info__ < (0, 11):
    # Later ones do not know it, and an unknown flag ends the process.
    QUICK += "--xla_cpu_use_fusion_emitters=false "
# A worker finds what was set in the process that started it.
GIVEN = os.environ.get("XLA_FLAGS", "").removeprefix(QUICK)
os.environ["XLA_FLAGS"] = QUICK + GIVEN

# How long an example takes is the machine's affair, and no property of what is tested.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

# Tests are the same with a network and without. The library reads these when it is imported.
os.environ["HF_HUB_OFFLINE"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:
    # Within the folder of the process that started the worker, which removes it.
    os.environ["HF_HOME"] += f"/{os.environ['PYTEST_XDIST_WORKER']}"
else:
    os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="jaxch5-tests-")


@pytest.fixture(autouse=True, scope="module")
def few_programs_in_memory():
    """Compiled programs are kept for as long as they may be used, and a whole suite has many.

    Commands that tests run here have glibc keep what is freed (`keep_freed_memory`): a worker came
    to 12 GB.
    """
    yield
    jax.clear_caches()
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


@pytest.fixture(scope="session")
def usual_compiler():
    """The environment of a command whose programs are compiled as a user's are."""
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
    """A folder of two classes of 20 pictures of many sizes, told apart by their colour."""
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
    """A run of one epoch, and the learner that made it."""
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
        # Its sandbox does not start for root, as whom containers run tests.
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def new_tab(chromium):
    """Opens a tab that gathers its errors (`complaints`) and the addresses that it asks for."""
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
