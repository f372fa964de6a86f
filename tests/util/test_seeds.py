"""A seed that JAX or NumPy would wrap or refuse is refused by every function that takes one."""

import io

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import jaxch5 as jx
from jaxch5.data.packing import pack
from jaxch5.data.sampler import balanced, repeated, shuffled
from jaxch5.errors import ConfigError
from jaxch5.results.interpretation import Interpretation
from jaxch5.results.out_of_fold import stratified_folds
from jaxch5.util.seeds import check_seed

LABELS = np.arange(40) % 2
SOURCE = jx.from_arrays(np.zeros((40, 8, 8), np.uint8), LABELS, ["a", "b"])
BLOCK = jx.DataBlock(SOURCE, jx.random_split(), presize=8, size=8)


class Tiny(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(2, name="head")(x.mean((1, 2)))


@pytest.fixture(scope="module")
def learn():
    return jx.vision_learner(BLOCK.load(8), Tiny())


@pytest.fixture(scope="module")
def takers(learn, tmp_path_factory):
    """The functions that take a seed, by name."""
    folder = tmp_path_factory.mktemp("packs")
    interp = Interpretation(
        [0, 1], np.eye(2), ["a", "b"], pictures=lambda item: np.zeros((4, 4, 3))
    )
    picture, console = np.zeros((8, 8, 3), np.uint8), Console(file=io.StringIO())
    return {
        "vision_learner": lambda seed: jx.vision_learner(learn.data, Tiny(), seed=seed),
        "again": learn.again,
        "random_split": lambda seed: jx.random_split(seed=seed),
        "load": lambda seed: BLOCK.load(8, seed=seed),
        "with_seed": learn.data.with_seed,
        "shuffled": lambda seed: shuffled(LABELS, 0, seed),
        "balanced": lambda seed: balanced(LABELS, 0, seed),
        "repeated": lambda seed: repeated(LABELS, 0, seed),
        "show_batch": lambda seed: learn.data.show_batch(1, 1, seed=seed),
        "plot_results": lambda seed: interp.plot_results(1, 1, seed),
        "plot_augmentations": lambda seed: jx.plot_augmentations(picture, size=8, seed=seed),
        "stratified_folds": lambda seed: stratified_folds(LABELS, 2, seed),
        "pack": lambda seed: pack(SOURCE, folder / "pack", 8, seed=seed, console=console),
    }


NAMES = [
    *("vision_learner", "again", "random_split", "load", "with_seed", "shuffled", "balanced"),
    *("repeated", "show_batch", "plot_results", "plot_augmentations", "stratified_folds", "pack"),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", [-1, 2**32, 2**70, 1.5, "1", None, np.int64(-1)])
def test_a_seed_that_is_none_is_refused(name, seed, takers):
    line = rf"^(random_split: )?seed = {seed}: should be a whole number from 0 to 4294967295$"
    with pytest.raises(ConfigError, match=line):
        takers[name](seed)


def test_whole_numbers_of_all_libraries_are_the_same_seed():
    for seed in (0, 7, 2**32 - 1):
        for same in (seed, np.uint32(seed), np.array(seed), jnp.uint32(seed)):
            assert type(found := check_seed(same)) is int
            assert found == seed
        first, second = (jx.random_split(seed=one)(SOURCE)[1] for one in (seed, np.uint32(seed)))
        assert first.tolist() == second.tolist()


def test_the_greatest_seed_is_one(learn, takers):
    """The greatest seed gives other weights and orders than 0, its neighbour modulo 2**32."""
    greatest = 2**32 - 1
    other = takers["again"](greatest)
    assert not np.array_equal(*(one.state.params["head"]["kernel"] for one in (learn, other)))
    for name in ("shuffled", "balanced"):
        assert takers[name](greatest).tolist() != takers[name](0).tolist()
