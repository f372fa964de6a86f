"""Checkpoints restore every bit, keep the last two and the best, and say what failed."""

import resource
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxch5.errors import CheckpointError
from jaxch5.optim.optimizer import make_optimizer
from jaxch5.run import arrays
from jaxch5.run.checkpoint import Checkpoints, StoredCheckpoints
from jaxch5.training.state import TrainState


def state_at(step):
    params = {"conv": {"kernel": jax.random.normal(jax.random.key(step), (3, 5))}}
    return TrainState(
        step=jnp.int32(step),
        params=params,
        batch_stats={"bn": {"mean": jnp.full((5,), float(step))}},
        opt_state=make_optimizer().init(params),
        scale=None,
        average=None,
        epoch_loss=jnp.float32(step / 7),
        epoch_skipped=jnp.int32(0),
    )


def last_of(saves, like=None):
    return saves.restore(like or state_at(0), saves.last_step())


def records(*accuracies):
    return [{"epoch": epoch, "accuracy": value} for epoch, value in enumerate(accuracies)]


def test_the_last_checkpoint_comes_back_bit_for_bit(tmp_path):
    with Checkpoints(tmp_path) as saves:
        saves.save(state_at(4), records(0.5), epoch_done=True)
        saves.save(state_at(8), records(0.5, 0.75), epoch_done=True)
    with Checkpoints(tmp_path) as saves:
        saved = last_of(saves)
    assert saved.records == records(0.5, 0.75)
    for restored, original in zip(
        jax.tree.leaves(saved.state), jax.tree.leaves(state_at(8)), strict=True
    ):
        assert restored.dtype == original.dtype
        np.testing.assert_array_equal(restored, original)


def test_the_last_two_and_the_best_are_kept(tmp_path):
    accuracies = (0.5, 0.9, 0.6, 0.7, 0.8)
    with Checkpoints(tmp_path) as saves:
        for epoch in range(5):
            saves.save(state_at(epoch), records(*accuracies[: epoch + 1]), epoch_done=True)
    with Checkpoints(tmp_path) as saves:
        assert saves.steps() == [1, 3, 4]
        assert int(saves.restore(state_at(0), step=1).state.step) == 1


def test_a_save_within_an_epoch_is_the_last_but_never_the_best(tmp_path):
    with Checkpoints(tmp_path) as saves:
        saves.save(state_at(2), records(0.9), epoch_done=True)
        for step in (3, 4, 5):
            saves.save(state_at(step), records(0.9), epoch_done=False)
    with Checkpoints(tmp_path) as saves:
        assert saves.steps() == [2, 4, 5]
        assert int(last_of(saves).state.step) == 5


def test_a_state_may_be_consumed_as_soon_as_its_save_has_begun(tmp_path):
    """The next step writes into the buffers of a donated state while the save is under way."""
    overwrite = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)
    large = state_at(1).replace(params=jnp.zeros((2000, 2000)))
    with Checkpoints(tmp_path) as saves:
        saves.save(large, [], epoch_done=False)
        jax.block_until_ready(overwrite(large))
    with Checkpoints(tmp_path) as saves:
        saved = last_of(saves, state_at(0).replace(params=jnp.zeros((2000, 2000))))
    assert float(jnp.max(jnp.abs(saved.state.params))) == 0


SAVES = """
import pathlib, sys, psutil, numpy as np
sys.path.insert(0, sys.argv[1])
from tests.run.test_checkpoint import Checkpoints, state_at

process, state = psutil.Process(), state_at(0)
with Checkpoints(pathlib.Path.cwd()) as saves:
    for step in range(351):
        saves.save(state.replace(step=np.int32(step)), [], epoch_done=False)
        if step % 50 == 0:
            print(process.memory_info().rss / 1e6)
"""


def test_many_saves_take_no_more_memory_than_a_few(tmp_path):
    """Memory does not grow with the number of saves.

    A leak would show in every 50 saves; with orbax's own way of saving, each 50 saves leaked two
    megabytes. The median ignores moments at which the allocator takes more memory. The saves are
    made in a separate process, which has no threads of other tests.
    """
    ended = subprocess.run(
        [sys.executable, "-c", SAVES, Path(__file__).parents[2]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    held = [float(line) for line in ended.stdout.split()]
    assert len(held) == 8
    assert np.median(np.diff(held[1:])) < 0.2


def test_an_empty_directory_has_no_checkpoint(tmp_path):
    with Checkpoints(tmp_path) as saves:
        assert saves.newest(saves.about, print) is None


def test_a_save_that_fails_says_why_and_keeps_the_one_before(tmp_path):
    """A limit on the size of files makes the second save fail, as a full disk would."""
    large = state_at(2).replace(params=jax.random.normal(jax.random.key(0), (1000, 1000)))

    def save_two():
        with Checkpoints(tmp_path) as saves:
            saves.save(state_at(1), [], epoch_done=False)
            saves.wait()
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, unlimited))
            saves.save(large, [], epoch_done=False)

    _, unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(CheckpointError, match="could not be saved: File too large"):
            save_two()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, unlimited))
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    with Checkpoints(tmp_path) as saves:
        assert int(last_of(saves).state.step) == 1


def damage(file, kind):
    content = bytearray(file.read_bytes())
    if kind == "missing":
        file.unlink()
    elif kind == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif content:
        content[2 * len(content) // 3] ^= 0x10
        file.write_bytes(content)


@pytest.mark.parametrize("kind", ["missing", "cut", "flipped"])
def test_a_damaged_checkpoint_is_passed_over_or_what_it_restores_is_intact(kind, tmp_path):
    """Whichever file is damaged, the restored state is one of the two that were saved."""
    with Checkpoints(tmp_path / "saved") as saves:
        saves.save(state_at(1), records(0.5), epoch_done=True)
        saves.save(state_at(2), records(0.5), epoch_done=False)
    whole = tmp_path / "saved"
    files = [path.relative_to(whole) for path in sorted((whole / "2").rglob("*")) if path.is_file()]
    passed_over = set()
    for number, file in enumerate(files):
        copy = shutil.copytree(whole, tmp_path / str(number))
        damage(copy / file, kind)
        said = []
        with Checkpoints(copy) as saves:
            step, saved = saves.newest(
                lambda step, saves=saves: (step, saves.restore(state_at(0), step)), said.append
            )
        for got, expected in zip(
            jax.tree.leaves(saved.state), jax.tree.leaves(state_at(step)), strict=True
        ):
            np.testing.assert_array_equal(got, expected)
        assert len(said) == (step == 1)
        if step == 1:
            assert f"{copy}/2: is damaged: " in said[0]
            assert said[0].endswith("using the earlier checkpoint of step 1")
            passed_over.add(file.parts[1])
    assert passed_over == {"variables", "rest", "about"}


def test_none_whole_is_an_error_and_none_written_is_none(tmp_path):
    with Checkpoints(tmp_path) as saves:
        assert saves.newest(saves.about, print) is None
        saves.save(state_at(1), [], epoch_done=False)
    shutil.rmtree(tmp_path / "1" / "about")
    with (
        Checkpoints(tmp_path) as saves,
        pytest.raises(CheckpointError, match="this run has no intact checkpoint"),
    ):
        saves.newest(saves.about, print)


def test_training_goes_on_from_an_older_checkpoint(tmp_path):
    """Newer checkpoints are removed; a damaged one would otherwise still count as the newest."""
    with Checkpoints(tmp_path) as saves:
        for step in (1, 2):
            saves.save(state_at(step), [], epoch_done=False)
    with Checkpoints(tmp_path) as saves:
        saves.remove_after(1)
        saves.save(state_at(2), records(0.7), epoch_done=True)
    with Checkpoints(tmp_path) as saves:
        assert saves.steps() == [1, 2]
        assert saves.about(2)["records"] == records(0.7)


def test_a_save_takes_the_place_of_one_of_the_same_step(tmp_path):
    """The save made after validation, with its record, replaces the one that was made before it."""
    with Checkpoints(tmp_path) as saves:
        saves.save(state_at(1), [], epoch_done=False)
        saves.save(state_at(1), records(0.7), epoch_done=True)
    with Checkpoints(tmp_path) as saves:
        assert saves.about(1)["records"] == records(0.7)
        assert saves.best_step() == 1


def test_a_checkpoint_that_is_removed_meanwhile_is_not_the_best(tmp_path, monkeypatch):
    """A run that is still training removes checkpoints while another process looks at them."""
    with Checkpoints(tmp_path) as saves:
        for step, accuracy in ((1, 0.9), (2, 0.7)):
            saves.save(state_at(step), records(accuracy), epoch_done=True)
    stored, about = StoredCheckpoints(tmp_path), StoredCheckpoints.about
    assert stored.best_step() == 1

    def removing(saves, step):
        shutil.rmtree(tmp_path / "1", ignore_errors=True)
        return about(saves, step)

    monkeypatch.setattr(StoredCheckpoints, "about", removing)
    assert stored.best_step() == 2


def test_saving_goes_on_after_the_disk_was_full(tmp_path):
    large = state_at(2).replace(params=jax.random.normal(jax.random.key(0), (1000, 1000)))
    _, unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(tmp_path) as saves:
        saves.save(state_at(1), [], epoch_done=False)
        saves.wait()
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, unlimited))
            saves.save(large, [], epoch_done=False)
            with pytest.raises(CheckpointError, match="File too large"):
                saves.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, unlimited))
        saves.save(state_at(3), [], epoch_done=False)
    with Checkpoints(tmp_path) as saves:
        assert saves.steps() == [1, 3]


def test_weights_that_claim_to_be_huge_are_not_read(tmp_path, monkeypatch):
    with Checkpoints(tmp_path) as saves:
        saves.save(state_at(1), [], epoch_done=False)
        saves.wait()
        assert saves.variables(1)["params"]
        monkeypatch.setattr(arrays, "MOST_BYTES", 50)
        assert saves.variables(1)["params"]
        monkeypatch.setattr(arrays, "free_memory", lambda: 100)
        with pytest.raises(CheckpointError, match=r"1: is damaged: its arrays would take 0 GB"):
            saves.variables(1)


def test_a_state_of_any_size_is_restored(tmp_path, monkeypatch):
    """The size of a state that training continues with is known, so it need not be limited."""
    large = state_at(1).replace(params=jax.random.normal(jax.random.key(0), (100, 100)))
    with Checkpoints(tmp_path) as saves:
        saves.save(large, [], epoch_done=False)
        saves.wait()
        monkeypatch.setattr(arrays, "MOST_BYTES", 5000)
        monkeypatch.setattr(arrays, "free_memory", lambda: 0)
        np.testing.assert_array_equal(saves.restore(large, 1).state.params, large.params)
