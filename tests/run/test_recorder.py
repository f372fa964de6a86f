"""The recorder draws what it was given, also for a run that was resumed."""

import numpy as np

from jaxch5.run.recorder import Recorder


def test_losses_are_drawn_where_their_epochs_ended():
    """This process trained the last two epochs, of ten steps each; the first two are not drawn."""
    records = [{"valid_loss": value} for value in (0.9, 0.8, 0.7, 0.6)]
    recorder = Recorder(records, losses=list(range(20)), ends=[10, 20])
    training, validation = recorder.plot_loss(skip_start=5).axes[0].lines
    np.testing.assert_array_equal(training.get_xdata(), range(5, 20))
    np.testing.assert_array_equal(validation.get_xdata(), [10, 20])
    np.testing.assert_array_equal(validation.get_ydata(), [0.7, 0.6])


def test_each_group_has_its_own_curve():
    recorder = Recorder(losses=[1.0, 1.0], lrs=[[0.1, 0.2], [0.3, 0.4]], moms=[0.9, 0.8])
    rates, momentum = recorder.plot_sched().axes
    assert [line.get_ydata().tolist() for line in rates.lines] == [[0.1, 0.3], [0.2, 0.4]]
    assert [line.get_ydata().tolist() for line in momentum.lines] == [[0.9, 0.8]]
