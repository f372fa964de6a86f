"""A stored step equals the one that would be compiled, and is found only for that very step."""

import ast
import os
import secrets
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

import jaxch5
from jaxch5.augmentation.policy import aug_transforms
from jaxch5.losses import cross_entropy, focal_loss
from jaxch5.models.registry import create_model
from jaxch5.models.spec import Normalization
from jaxch5.training import kept as module
from jaxch5.training.kept import (
    OUTPUT,
    STEP,
    environment_of,
    is_known,
    kept,
    kept_shapes,
    shapes_of,
)
from jaxch5.training.recipe import Recipe
from jaxch5.training.step import make_eval_step, make_train_step
from jaxch5.util.fingerprint import UnknownError, fingerprint
from jaxch5.view import View

# A program that trains one step; its argument is the folder of the cache. It prints whether the
# step was traced, and the step's loss.
PROCESS = """
import sys
import jax
from jax import monitoring
from jaxch5.config.settings import Config
from jaxch5.config.building import load_data
from jaxch5.configured import learner_of
from jaxch5.data.pipeline import to_device
from jaxch5.training.kept import environment_of
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
before = environment_of()
traced = []
def listen(event, duration, **named):
    if "trace" in event:
        traced.append(named.get("fun_name"))
monitoring.register_event_duration_secs_listener(listen)
settings = {"seed": 1, "data": {"size": 8, "presize": 8, "batch_size": 4}}
config = Config.model_validate({**settings, "model": {"weights": "none"}})
learn = learner_of(load_data(config), config, lambda line: None)
batch = next(to_device(learn.data.train.steps(0, 1)))
_, metrics = learn._steps.train(learn.state, batch, jax.random.key(0))
# Whether it was traced makes no difference to what the next program is kept by.
assert environment_of() == before
print("traced" if "train_step" in traced else "kept", float(metrics["loss"]).hex())
"""


def trained(folder):
    command = [sys.executable, "-c", PROCESS, str(folder)]
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    return found.stdout.split()


@pytest.mark.slow
def test_a_second_process_traces_no_step_and_gets_the_same_bits(tmp_path):
    how, loss = trained(tmp_path)
    assert how == "traced"
    assert trained(tmp_path) == ["kept", loss]


CACHE = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)
MODEL = create_model("resnet18", 3)
LOSSES = {
    "as it is": {},
    "loss": {"loss": focal_loss},
    "weighted": {"loss": partial(cross_entropy, weight=(1.0, 2.0, 3.0))},
    "weighted otherwise": {"loss": partial(cross_entropy, weight=(1.0, 2.0, 4.0))},
    "decay": {"wd": 0.5},
    "optimizer": {"optimizer": "sgd"},
    "clip": {"clip": 1.0},
    "accumulate": {"accumulate": 2},
    "average": {"average": 0.9},
    "batch norms of each device": {"bn": "local"},
}


def train_step(recipe=Recipe(), model=MODEL, policy=aug_transforms(), size=32, **others):  # noqa: B008
    return make_train_step(model, recipe, policy, size, **others)


STEPS = {
    **{name: train_step(Recipe(**changes)) for name, changes in LOSSES.items()},
    "network": train_step(model=create_model("resnet34", 3)),
    "classes": train_step(model=create_model("resnet18", 4)),
    "head": train_step(model=create_model("resnet18", 3, head="concat_pool")),
    "precision": train_step(model=create_model("resnet18", 3, dtype=jnp.bfloat16)),
    "remat": train_step(model=create_model("resnet18", 3, remat=True)),
    "policy": train_step(policy=aug_transforms(max_rotate=11)),
    "no policy": train_step(policy=None),
    "size": train_step(size=48),
    "sides": train_step(size=(32, 48)),
    "colours": train_step(normalization=Normalization((0.5,) * 3, (0.5,) * 3)),
    "frozen": train_step(frozen=frozenset({("conv1", "kernel")})),
    "length": train_step(steps_per_epoch=7),
    "evaluation": make_eval_step(MODEL, 32),
    "view": make_eval_step(MODEL, 32, view=View(0.9)),
}


def test_each_choice_makes_another_step():
    found = {name: fingerprint(step, is_known) for name, step in STEPS.items()}
    assert len(set(found.values())) == len(STEPS)
    assert found["as it is"] == fingerprint(train_step(), is_known)


def test_shapes_tell_types_and_structures_apart():
    one = jnp.zeros((2, 3))
    args = [one, jnp.zeros((3, 2)), one.astype(int), {"a": one}, {"b": one}, (one, one), [one, one]]
    assert len({repr(shapes_of(arg)) for arg in args}) == len(args)


def own_loss(logits, labels):
    return cross_entropy(logits, labels)


def test_a_step_with_a_function_of_ones_own_is_not_kept():
    with pytest.raises(UnknownError):
        fingerprint(train_step(Recipe(loss=own_loss)), is_known)


@pytest.fixture
def get(tmp_path, monkeypatch):
    """A function that loads or compiles the program for a number, and checks the program's result.

    The programs differ from test to test, so none of them is in JAX's own cache. `get.made` lists
    the numbers whose programs were compiled.
    """
    monkeypatch.setattr(module, "folder_of_steps", lambda: tmp_path)
    x, own, made = np.zeros(3, np.float32), secrets.randbits(20), []

    def get(number):
        def make():
            made.append(number)
            return jax.jit(lambda y: y + number + own).lower(x).compile()

        assert kept(make, "here", number, own)(x)[0] == number + own

    get.made = made
    return get


def test_kept_ones_are_bounded(get, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "COUNT", 3)
    for number in range(5):
        get(number)
    assert len(list(tmp_path.iterdir())) <= 3
    get(4)
    assert get.made == [0, 1, 2, 3, 4]


def test_damage_is_noticed_before_anything_is_run(get, tmp_path):
    get(1)
    [file] = tmp_path.iterdir()
    whole = file.read_bytes()
    turned = bytearray(whole)
    turned[len(whole) // 2] ^= 1
    for damaged in (b"", whole[:-1], bytes(turned)):
        file.write_bytes(damaged)
        get(1)
    assert get.made == [1] * 4


def test_what_jax_had_kept_is_not_kept_again(get, tmp_path, monkeypatch):
    """A program that was read from JAX's own cache is not stored again.

    XLA would write such a program incompletely, and it would fail when it is run.
    """
    config = jax.config.values
    before = {name: config[name] for name in CACHE}
    reset_cache()
    try:
        for name, value in zip(CACHE, (str(tmp_path / "jax"), 0.0, -1), strict=True):
            jax.config.update(name, value)
        monkeypatch.setattr(module, "folder_of_steps", lambda: tmp_path / "steps")
        get(1)
        [file] = (tmp_path / "steps").iterdir()
        file.unlink()
        get(1)
        assert not list((tmp_path / "steps").iterdir())
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        reset_cache()


def test_shapes_are_kept_for_each_network_and_size(tmp_path, monkeypatch):
    """The stored shapes are those that `init_with_output` gives.

    For a user's own network, no shapes are stored, and this method is called each time.
    """
    monkeypatch.setattr(module, "folder_of_steps", lambda: tmp_path)
    asked = []

    class Counted(type(MODEL)):
        def init_with_output(self, *args, **named):
            asked.append(self)
            return super().init_with_output(*args, **named)

    vit = create_model("vit_small_patch16_224", 3)
    for model, size in ((MODEL, 32), (create_model("resnet18", 4), 32), (vit, 32), (vit, (32, 48))):
        picture = jax.ShapeDtypeStruct((1, *np.broadcast_to(size, 2), 3), np.float32)
        init = partial(model.init_with_output, train=False)
        wanted = jax.eval_shape(init, jax.random.key(0), picture)
        assert kept_shapes(model, size) == kept_shapes(model, size) == wanted
    assert len(list(tmp_path.iterdir())) == 4
    with monkeypatch.context() as patch:
        patch.setattr(jax, "eval_shape", None)
        kept_shapes(MODEL, 32)
    own = Counted("resnet18", 3)
    for _ in range(2):
        kept_shapes(own, 32)
    assert asked == [own, own]


# Modules that the modules of a step import, although no step contains them: they raise errors, read
# files and pictures, or run steps.
NOT_TRACED = frozenset(
    f"jaxch5.{name}"
    for name in (
        "config.toml",
        "data.block",
        "data.pipeline",
        "data.sampler",
        "errors",
        # A step with a network from this module is not stored: `STEP` does not include it.
        "models.bridge",
        "training.compiler",
        "training.initial",
        "training.kept",
        "training.loop",
        "training.plan",
        "util.imports",
        "util.limits",
        "util.text",
    )
)


# Libraries that compute nothing in a step: one provides types, the other an epoch's metrics.
NOT_COMPUTED = {"jaxtyping", "sklearn"}


def imported_by(name):
    package = Path(jaxch5.__file__).parent.parent
    tree = ast.parse((package / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("jaxch5"):
            yield node.module.partition(".")[0]
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxch5"):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                is_module = (package / f"{whole.replace('.', '/')}.py").exists()
                yield whole if is_module else node.module


@pytest.mark.parametrize(
    ("parts", "name"),
    [(parts, name) for parts in (OUTPUT, STEP) for name in sorted(parts.modules)],
)
def test_all_that_a_program_is_made_of_is_looked_at(parts, name):
    """A fingerprint covers all modules and libraries that a program's modules import.

    After a change to a module that is not covered, outdated programs would still be used.
    """
    libraries = {*parts.libraries, *NOT_COMPUTED, *sys.stdlib_module_names}
    assert set(imported_by(name)) <= parts.modules | NOT_TRACED | libraries


def test_the_environment_is_told(monkeypatch):
    before = environment_of()
    assert environment_of() == before
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    assert environment_of() != before
    monkeypatch.undo()
    with jax.default_matmul_precision("highest"):
        assert environment_of() != before
    monkeypatch.setattr(jax, "__version__", "0.0")
    assert environment_of() != before
