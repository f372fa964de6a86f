"""What tests share: where programs are cached, and pictures to train on."""

import io
import os
import shutil
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from PIL import Image
from rich.console import Console


def pytest_collection_modifyitems(items):
    """Files with slow tests first, so that no worker is left with one when the others are done."""
    with_slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in with_slow)


@pytest.fixture(autouse=True, scope="session")
def compiled_programs(tmp_path_factory):
    """Tests and the commands they start compile each program once a session, and leave nothing."""
    folder = tmp_path_factory.getbasetemp()
    # Of several workers, each has a folder of its own in the session's.
    shared = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    kept = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(shared / "compiled"))
    jax.config.update("jax_compilation_cache_dir", kept)
    # A file takes milliseconds. By default what compiles in less than a second is not kept.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
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

# Tests are the same with a network and without. The library reads these when it is imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="jaxch5-tests-")


@pytest.fixture(autouse=True, scope="module")
def few_programs_in_memory():
    """Compiled programs are kept for as long as they may be used, and a whole suite has many."""
    yield
    jax.clear_caches()


@pytest.fixture
def usual_compiler():
    """The environment of a command whose programs are compiled as a user's are."""
    return os.environ | {"XLA_FLAGS": GIVEN}


@pytest.fixture(scope="session")
def flowers():
    """A folder of real photographs, with train/ and valid/."""
    folder = os.environ.get("JAXCH5_FLOWERS")
    if not folder:
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
    from jaxch5.config import Config
    from jaxch5.configured import learner_of
    from jaxch5.data.from_config import load_data
    from jaxch5.training.rundir import create_run

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
