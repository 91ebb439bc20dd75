"""``--recalibrate``: the peaks of a run correct the profile it was planned with, and the command says how far."""

from dataclasses import replace
from pathlib import Path

import pytest

from search.plan import main
from tests.search_tests.synthetic import report_at
from trainable.commandline import run
from trainable.config import DataConfig, TrialConfig
from trainable.data.load import Dataset
from trainable.execution_plan import ExecutionPlan
from trainable.memory.predict import DataSizes, Predictor
from trainable.memory.profile import DeviceProfile
from trainable.record import RunFolder, RunManifest, TrialStart

pytestmark = pytest.mark.slow
TRUTH = replace(DeviceProfile(), convolution_workspace_share=0.3)
PLANS = (ExecutionPlan(micro_batch_clips=16), ExecutionPlan(micro_batch_clips=4))


@pytest.fixture
def folder(tmp_path: Path, tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of two trials, of which the second recovered with a smaller plan in the middle of phase 2."""
    monkeypatch.setattr("trainable.data.load.load_dataset", lambda _: tiny_dataset)
    path = tmp_path / "run"
    run_folder = RunFolder(path)
    predictor = Predictor(DataSizes.of(tiny_dataset), TRUTH)
    run_folder.write_manifest(manifest())
    for number, width in enumerate((1.0, 4.0)):
        config = TrialConfig.from_flat({"width": width, "epochs": 5, "vq_only_share": 0.2, "frozen_share": 0.2})
        start = TrialStart(number=number, params={}, config=config, plan=PLANS[0], predicted_bytes=1)
        run_folder.write_start(start)
        for epoch, phase in enumerate((1, 2, 2, 2, 3), start=1):
            plan = PLANS[1] if number and epoch > 2 else PLANS[0]
            # Outside of phase 2 a trial needs less than was predicted, which says nothing about the prediction.
            peak = predictor.predict(config, plan).allocated_bytes if phase == 2 else 1
            events: tuple[str, ...] = ()
            if number and epoch == 3:  # before the peak was reset at a recovery, this was the failed plan's
                peak, events = 2 * predictor.predict(config, PLANS[0]).allocated_bytes, ("out of memory",)
            measured = replace(report_at(epoch, 0.5), phase=phase, peak_bytes=peak, events=events)
            run_folder.append_epoch(number, replace(measured, plan=plan))
    return path


def manifest() -> RunManifest:
    return RunManifest(
        name="run",
        command="",
        created="",
        seed=0,
        space_name="x",
        space_digest="",
        data=DataConfig().to_dict(),
        data_digest="",
        num_samples=2,
        max_epochs=5,
        gpu_memory_budget_bytes=None,
        device="cuda",
        study_storage=None,
        study_name="run",
        commit="",
        versions={},
    )


def test_a_runs_peaks_correct_the_profile(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "profile.json"
    assert run(main, ["--recalibrate", str(folder), "--profile-output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "3 measured peaks" in printed
    assert "after   median 0.0%, worst 0.0%; margin 1.0%, 0 peaks above it; workspace share 0.30" in printed
    profile = DeviceProfile.load(output)
    assert profile.convolution_workspace_share == pytest.approx(0.3, abs=0.01)
    assert profile.measured
    assert profile.context_bytes == DeviceProfile().context_bytes, "trials do not measure it"


def test_what_is_no_run_or_measured_nothing_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunFolder(tmp_path / "cpu").write_manifest(manifest())
    for arguments, words in (
        (["--recalibrate", str(tmp_path / "none")], "manifest"),
        (["--recalibrate", str(tmp_path / "cpu")], "no trial measured a peak"),
        (["--recalibrate", "x", "--space", "ad_smoke"], "remove --space"),
        (["--space", "ad_smoke", "--profile-output", "x"], "--recalibrate RUN"),
    ):
        assert run(main, arguments) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
