"""The scalars that a search writes can be read by TensorBoard itself."""

import pytest

from search.engine.asha import Decision
from search.listeners.tensorboard import TensorBoardScalars
from tests.search_tests.listeners_tests.test_progress import ended, report, start
from trainable.record import TrialEnd

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning")]  # of tensorboard


def read(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def test_each_trial_has_its_scalars_by_epoch(tmp_path):
    with TensorBoardScalars(tmp_path) as scalars:
        for number in (0, 12):
            for epoch in (1, 2):
                told = report(epoch, 0.5 + 0.1 * epoch + 0.01 * number, perplexity=7.0 + epoch, peak_bytes=2**33)
                scalars.on_report(number, told, Decision.CONTINUE)
        scalars.on_end(start(0), ended(TrialEnd.COMPLETED, 2))
        scalars.on_end(start(99), ended(TrialEnd.OVER_BUDGET, 0, None))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000", "00012"]
    for number in (0, 12):
        events = read(tmp_path / f"{number:05d}")
        assert sorted(events.Tags()["scalars"]) == sorted(report(1, 0.5).scalars())
        told = [(event.step, event.value) for event in events.Scalars("validation_auc")]
        assert told == [(1, pytest.approx(0.6 + 0.01 * number)), (2, pytest.approx(0.7 + 0.01 * number))]
        assert [event.value for event in events.Scalars("perplexity")] == [8.0, 9.0]
        assert [event.value for event in events.Scalars("peak_bytes")] == [2.0**33] * 2


def test_the_parameters_and_the_ending_of_a_trial_are_in_its_hparams(tmp_path):
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    trial = start(4, num_embeddings=64, learning_rate=0.002, density="counts", linear_path=True)
    with TensorBoardScalars(tmp_path) as scalars:
        scalars.on_start(trial, resumed=False)
        scalars.on_report(4, report(1, 0.6), Decision.CONTINUE)
        scalars.on_end(trial, ended(TrialEnd.CRASHED, 1))
    contents = read(tmp_path / "00004").PluginTagToContent("hparams")
    told = {tag: HParamsPluginData.FromString(content) for tag, content in contents.items()}
    first = told["_hparams_/session_start_info"].session_start_info.hparams
    assert {name: getattr(value, value.WhichOneof("kind")) for name, value in first.items()} == trial.used
    assert told["_hparams_/session_end_info"].session_end_info.status == 2, "STATUS_FAILURE"


def test_a_resumed_trial_goes_on_in_its_own_folder(tmp_path):
    for epochs in ((1, 2), (3,)):
        with TensorBoardScalars(tmp_path) as scalars:
            for epoch in epochs:
                scalars.on_report(3, report(epoch, 0.6), Decision.CONTINUE)
    assert [event.step for event in read(tmp_path / "00003").Scalars("loss")] == [1, 2, 3]
