"""Training on eight devices, which a CPU simulates, gives the same results as on one."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxch5.batch import CachedBatch, without_labels
from jaxch5.framing import Framing
from jaxch5.training.mesh import by_rows

CHILD = Path(__file__).with_name("eight_devices.py")
# Compiling takes longer than all computations do, so XLA optimizes little. If it optimized even
# less, the different rounding on one device and on eight would make the losses diverge.
QUICK = "--xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true"
# Only the order of addition differs between one device and eight.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def eight(tmp_path_factory, usual_compiler):
    """The results that `eight_devices.py` prints."""
    flags = f"{QUICK} {usual_compiler['XLA_FLAGS']}"
    ended = subprocess.run(
        [sys.executable, CHILD, tmp_path_factory.mktemp("eight")],
        env=usual_compiler | {"PYTHONPATH": str(CHILD.parents[2]), "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def assert_close(losses, expected):
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(losses, expected, rtol=TOLERANCE)


@pytest.mark.parametrize("framing", [Framing("squish"), Framing("pad", "zeros")])
def test_a_tree_by_rows_fits_batches_of_every_framing(framing):
    plain = without_labels(np.zeros((2, 4, 4, 3), np.uint8), np.zeros((2, 3, 3)), framing)
    of_rows = plain.label, plain.label, plain.index, plain.mask
    for batch in (plain, CachedBatch(plain.image, plain.frame, *of_rows, framing)):
        tree = by_rows(batch, "rows", "everywhere")
        assert jax.tree.structure(tree) == jax.tree.structure(batch)
        assert tree.label == "rows"
    assert (tree.images, tree.frames) == ("everywhere", "everywhere")


@pytest.mark.slow
class TestEightDevices:
    def test_losses_are_those_of_one_device(self, eight):
        """The losses agree over 21 steps with augmentation, in which the network learns."""
        one = eight["norms"]["one"]
        assert len(one) == 21
        assert np.mean(one[-3:]) < np.mean(one[:3]) - 0.1
        assert_close(eight["norms"]["global"], one)

    def test_local_batch_norms_take_one_message_a_step(self, eight):
        """With local batch norms, a step sends its gradient, loss and statistics as one vector.

        A learner compiles its steps only once, and the losses differ from those of one device.
        """
        norms = eight["norms"]
        assert norms["local messages"] == {"all-reduce": 1}
        assert norms["global messages"]["all-reduce"] > 1
        assert norms["programs"] == 1
        assert np.isfinite(norms["local"]).all()
        assert np.abs(np.divide(norms["local"], norms["one"]) - 1).max() > TOLERANCE

    def test_local_running_statistics_are_the_mean_of_the_devices(self, eight):
        local, mean = eight["statistics"]["local"], eight["statistics"]["mean"]
        for name in ("mean", "var"):
            np.testing.assert_allclose(local[name], mean[name], rtol=1e-5, atol=1e-7)

    def test_moments_shared_out_change_no_loss(self, eight):
        """Each device holds an eighth of the moments of a large kernel, even after many steps."""
        shared = eight["shared"]
        assert shared["shards"] == [[1, 128], [1, 128]]
        assert_close(shared["losses"], eight["norms"]["one"])

    def test_the_device_cache_lies_on_all_and_changes_nothing(self, eight):
        caches = eight["caches"]
        assert caches["everywhere"] == 8
        assert_close(caches["device"], caches["memory"])

    def test_many_steps_a_call_have_the_losses_of_single_ones(self, eight):
        assert len(eight["caches"]["many"]) == 30
        assert_close(eight["caches"]["many"], eight["caches"]["local"])

    def test_what_a_step_may_do_gives_the_losses_of_one_device(self, eight):
        """Mixing, half precision, averaged weights, clipping and accumulation work together.

        So do pictures that are not cropped: here they are squished, and in `caches` padded.
        """
        one, many = eight["settings"]["global"]
        assert_close(many, one)
        assert np.isfinite(eight["settings"]["local"]).all()

    def test_gradients_that_are_summed_at_the_end_are_those_of_one_device(self, eight):
        """All gradients are summed as one vector; the only other sums are of short statistics."""
        one, many = eight["summed"]["losses"]
        assert_close(many, one)
        *statistics, gradient = sorted(eight["summed"]["lengths"])
        assert gradient == eight["summed"]["weights"]
        assert max(statistics) < 100

    def test_a_weighted_mean_is_of_the_whole_batch(self, eight):
        """A loss with class weights is divided by the sum of the weights in the entire batch.

        This holds even with local batch norms, when each device computes the loss of its own rows.
        A user's own loss that hides its weights is then refused.
        """
        one, *many = eight["weights"]["losses"]
        for of_many in [*many, eight["weights"]["seen by all"]]:
            assert_close(of_many, one)
        assert "hidden is not the mean of the losses of single items" in eight["weights"]["hidden"]

    def test_fine_tuning_freezes_as_on_one_device(self, eight):
        one, many = eight["freezing"]
        assert_close(many, one)

    @pytest.mark.parametrize(
        "asked", ["validate", "preds", "tta", "predict", "interpret", "lr_find", "again"]
    )
    def test_a_learner_answers_as_on_one_device(self, eight, asked):
        one, many = (answers[asked] for answers in eight["after"])
        np.testing.assert_allclose(many, one, rtol=TOLERANCE, atol=1e-5)

    @pytest.mark.parametrize("on", ["8, True", "2, True", "1, False"])
    def test_a_checkpoint_is_taken_up_on_any_number_of_devices(self, eight, on):
        """A run whose checkpoint was written on eight devices can be resumed on eight, two and one.

        The checkpoint has sharded moments. The later losses are those of an uninterrupted run on
        one device.
        """
        taken_up = eight["taken up"]
        assert len(taken_up["whole"]) == 6
        assert_close(taken_up[on], taken_up["whole"])

    def test_rows_that_cannot_be_shared_equally_name_the_way_out(self, eight):
        errors = eight["errors"]
        assert "choose --data.batch-size 56, or --fit.devices 6" in errors["rows"]
        assert errors["resumed rows"].endswith("by 8 devices; choose --fit.devices 6")
        assert "choose --data.batch-size 8, or --fit.devices 3" in errors["few rows"]
        assert errors["devices"] == "fit.devices = 9: the number available is 8; 0 uses all"
        assert errors["bn"] == "model.bn = own: should be one of global, local"

    def test_data_that_are_set_are_shared_like_the_first(self, eight):
        """A cache on the device is copied to all devices once, and not with every batch."""
        on, devices, error = eight["other data"]
        assert (on, devices) == (8, 8)
        assert "60: cannot be shared equally by 8 devices" in error

    def test_a_better_batch_size_is_one_that_they_can_share(self, eight):
        assert "batches of 64 (--data.batch-size 48 leaves out none)" in eight["described"]
