"""The memory benchmark on a machine without a GPU: cases, the table that survives every end, the profile it gives."""

import json
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu_fit, gpu_memory, gpu_times
from benchmarks.gpu_cases import DATA, Case, cases, chosen, timed_cases
from benchmarks.gpu_fit import calibrated, time_quantities
from tests.trainable_tests.fake_cuda import fake_cuda
from trainable.config import TrialConfig
from trainable.errors import ConfigError
from trainable.execution_plan import ExecutionPlan
from trainable.memory.planner import Planner
from trainable.memory.profile import DeviceProfile
from trainable.timing.speed import Speed
from trainable.timing.work import step_work
from trainable.units import GIB, MIB

TINY = TrialConfig.from_flat({"width": 0.125, "n_patches": 1, "batch_size": 64, "latent_dim": 4, "num_embeddings": 8})
PROFILE = DeviceProfile(name="a card")
MEASURED = {"allocated_bytes": 9 * MIB, "reserved_bytes": 10 * MIB, "free_bytes": 7 * GIB, "step_seconds": 0.5}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def planner() -> Planner:
    return Planner(DATA, budget_bytes=None, profile=PROFILE)


def test_the_cases_are_named_reach_far_and_hold_the_recipe(planner: Planner) -> None:
    every = list(cases())
    assert len({case.name for case in every}) == len(every) >= 40
    recipe = chosen("recipe* plain")
    assert {(case.config.patch.batch_size, case.config.patch.n_patches) for case in recipe} == {(16, 16)}
    large = [planner.predict(case.config, case.plan).allocated_bytes for case in chosen("large*")]
    small = chosen("whole w1 p4 b16")[0]
    assert planner.predict(small.config, small.plan).allocated_bytes < 200 * MIB
    assert max(large) > 16 * GIB
    assert [case.capped for case in every] == [case.name.startswith("capped") for case in every]
    own = ExecutionPlan(micro_batch_clips=16, recompute_encoder=True, recompute_decoder=True, precision="amp_bfloat16")
    assert {case.plan for case in chosen("recipe * both amp")} == {own}
    assert len(chosen("part w1 micro*,part w1 host")) == 5
    with pytest.raises(ConfigError, match="recipe, part"):
        chosen("nothing")


@pytest.mark.parametrize(
    ("patterns", "widths"),
    [
        ("recipe w1*", {1.0}),
        ("recipe w1* plain", {1.0}),
        ("recipe w16*", {16.0}),
        ("recipe w1*,recipe w[48]*", {1.0, 4.0, 8.0}),
        ("recipe w*", {1.0, 2.0, 4.0, 8.0, 16.0}),
    ],
)
def test_a_number_in_a_pattern_is_matched_whole(patterns: str, widths: set[float]) -> None:
    assert {case.config.model.width for case in chosen(patterns)} == widths


def test_a_step_is_measured_in_phase_2() -> None:
    """With as few epochs as are trained the second one would be of phase 3, without the codebook's update."""
    values = gpu_memory.measure(Case("x", TINY, ExecutionPlan(micro_batch_clips=64)), None, PROFILE, "cpu")
    assert values["phase"] == 2
    assert values["step_seconds"] > 0


def test_running_out_of_memory_is_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")

    monkeypatch.setattr(gpu_memory.Trainer, "train_epoch", full)
    values = gpu_memory.measure(Case("x", TINY, ExecutionPlan(micro_batch_clips=64)), None, PROFILE, "cpu")
    assert values == {"error": "RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "out_of_memory": True}


class Runs:
    """Stands for the fresh processes: writes down what was asked, ends badly on demand."""

    def __init__(self, *, fails: str = "", seconds: float = 0.0):
        self.asked: list[tuple[str, int | None]] = []
        self.fails, self.seconds = fails, seconds

    def __call__(self, case: Case, cap_bytes: int | None, profile: DeviceProfile, seconds: float) -> dict[str, Any]:
        if len(self.asked) == 2 and self.fails == "killed":
            raise KeyboardInterrupt
        self.asked.append((case.name, cap_bytes))
        if case.capped and self.fails == "capped":
            return {"error": "OutOfMemoryError: CUDA out of memory", "out_of_memory": True}
        return dict(MEASURED)


def measured(
    path: Path, planner: Planner, runs: Runs, names: str, monkeypatch: Any, **options: Any
) -> gpu_memory.Table:
    monkeypatch.setattr(gpu_memory, "in_fresh_process", runs)
    table = gpu_memory.Table(path, resume=options.pop("resume", False))
    options = {"limit": None, "begun": time.monotonic(), "most_bytes": 80 * GIB} | options
    with fake_cuda(8 * GIB):
        gpu_memory.measure_all(chosen(names), table, planner, **options)
    return table


def test_an_end_in_the_middle_keeps_what_was_measured(
    tmp_path: Path, planner: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, names = tmp_path / "table.csv", "part w1*"
    with pytest.raises(KeyboardInterrupt):
        measured(path, planner, Runs(fails="killed"), names, monkeypatch)
    with path.open("a") as file:
        file.write("part w1 micro4,half of a")
    with pytest.raises(ConfigError, match=r"holds 2 rows already; continue with --resume"):
        gpu_memory.Table(path, resume=False)
    rest = Runs()
    table = measured(path, planner, rest, names, monkeypatch, resume=True)
    assert len(rest.asked) == len(chosen(names)) - 2
    assert [row["case"] for row in table.rows] == [case.name for case in chosen(names)]
    again = gpu_memory.Table(path, resume=True)
    assert again.rows == table.rows
    assert again.rows[0]["driver_bytes"] == GIB
    assert again.rows[0]["covered"] is False


def test_the_time_limit_begins_no_case_and_loses_none(
    tmp_path: Path, planner: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = time.monotonic() - 100
    table = measured(tmp_path / "t.csv", planner, Runs(), "part*", monkeypatch, limit=99.0, begun=late)
    assert table.rows == []
    with pytest.raises(ConfigError, match="no case was measured"):
        gpu_memory.report(table, "a card", PROFILE)


def test_a_case_that_takes_too_long_is_a_failed_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(command: list[str], *, timeout: float, **_: Any) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", hangs)
    row = gpu_memory.in_fresh_process(chosen("part w1 plain")[0], None, PROFILE, 30.0)
    assert row == {"error": "no result within 30 s"}


def test_cases_planned_to_fit_are_capped_at_their_prediction(
    tmp_path: Path, planner: Planner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = Runs(fails="capped")
    table = measured(tmp_path / "t.csv", planner, runs, "capped w1*,part w1 plain", monkeypatch)
    case = chosen("capped w1 p8 b16 whole")[0]
    expected = planner.predict(case.config, case.plan).predicted_bytes
    assert dict(runs.asked) | {case.name: expected, "part w1 plain": None} == dict(runs.asked)
    gpu_memory.report(table, "a card", PROFILE)
    assert "of 8 planned to fit under the profile 'a card', 8 ran out of memory" in capsys.readouterr().out
    assert all(table.holds(case, PROFILE) for case in chosen("capped w1*"))
    assert not any(table.holds(case, DeviceProfile(name="another")) for case in chosen("capped w1*"))


def test_the_profile_is_that_of_the_card_that_was_measured(planner: Planner) -> None:
    """Rows made of a known profile: each of its quantities is found again."""
    truth = replace(
        PROFILE,
        convolution_workspace_share=0.37,
        context_bytes=700 * MIB,
        recompute_encoder_share=0.21,
        recompute_decoder_share=0.12,
        host_share=0.33,
        amp_time_share=0.61,
        micro_batch_patches=11.0,
        chunk_patches=2.5,
    )
    card = Planner(DATA, budget_bytes=None, profile=truth)
    by_name = {case.name: case for case in chosen("part*,recipe w1*,recipe w4*")}
    rows = []
    for case in by_name.values():
        peak = card.predict(case.config, case.plan).allocated_bytes
        reserved = peak + 22 * MIB
        seconds = 1e-4 * card.relative_time(case.config, case.plan)
        rows.append({"case": case.name, "allocated_bytes": peak, "reserved_bytes": reserved})
        rows[-1] |= {"driver_bytes": reserved + truth.outside_bytes, "step_seconds": seconds}
    found = calibrated(rows, by_name, PROFILE, name="card", total_bytes=80 * GIB)
    assert found.convolution_workspace_share == pytest.approx(0.37, abs=0.01)
    assert found.outside_bytes == truth.outside_bytes
    assert found.margin_share == pytest.approx(0.01, abs=2e-3)
    assert found.measured
    for quantity in ("recompute_encoder_share", "recompute_decoder_share", "host_share", "amp_time_share"):
        assert getattr(found, quantity) == pytest.approx(getattr(truth, quantity), abs=0.01), quantity
    assert found.micro_batch_patches == pytest.approx(11.0, rel=0.05)
    assert found.chunk_patches == pytest.approx(2.5, rel=0.05)
    assert DeviceProfile.from_dict(found.to_dict()) == found


def test_what_no_row_varies_keeps_its_value() -> None:
    plain = chosen("part w1 plain")[0]
    row = {"case": plain.name, "step_seconds": 1.0}
    assert time_quantities([row], {plain.name: plain}, PROFILE) == {}
    host = chosen("part w1 host")[0]
    rows = [row, {"case": host.name, "step_seconds": 1.25}]
    found = time_quantities(rows, {plain.name: plain, host.name: host}, PROFILE)
    assert found.keys() >= {"host_share"}
    assert "amp_time_share" not in found


def test_the_driver_says_its_version_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_memory.shutil, "which", lambda _: None)
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.1\nGCC version\n")
    assert gpu_memory.driver_version(tmp_path / "version").endswith("570.1")
    assert gpu_memory.driver_version(tmp_path / "none") == ""
    assert gpu_memory.versions("card", 1)["torch"] == torch.__version__


def test_a_session_gives_a_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = chosen("part w1 plain")[0]
    peak = Planner(DATA, budget_bytes=None).predict(plain.config, plain.plan).allocated_bytes
    folder = tmp_path / "session"
    folder.mkdir()
    (folder / "session.json").write_text(json.dumps({"versions": {"gpu": "A card", "total_bytes": 80 * GIB}}))
    (folder / "table.csv").write_text(f"case,allocated_bytes,failed\n{plain.name},{peak},\npart w1 micro2,,no memory\n")
    (folder / "driver.csv").write_text(
        f"case,allocated_bytes,reserved_bytes,driver_bytes\n{plain.name},{peak},{peak},{peak + 701 * MIB}\n"
    )
    gpu_fit.main([str(folder), "--output", str(tmp_path / "card.json")])
    profile = DeviceProfile.load(tmp_path / "card.json")
    assert (profile.name, profile.measured, profile.outside_bytes) == ("A card", True, 702 * MIB)
    assert "A card: 2 peaks, median error 0.00%" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="holds no results of"):
        gpu_fit.main([str(tmp_path), "--output", str(tmp_path / "card.json")])


def test_rates_are_found_in_times_that_follow_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Small steps that wait for their launches, large ones for memory; a session's tables give the same rates."""
    truth = Speed(flops_per_second=1e15, bytes_per_second=8e11, launch_seconds=4e-5)
    by_name = {case.name: case for case in timed_cases()}
    rows = {name: 1e3 * truth.seconds(step_work(case.config, 4, case.plan)).alone for name, case in by_name.items()}
    lines = [f"{name},{milliseconds}" for name, milliseconds in rows.items() if "float16" not in name]
    (tmp_path / "times.csv").write_text("\n".join(["case,median_ms", *lines]) + "\n")
    found = gpu_times.fitted_speed(gpu_times.fitted_steps(tmp_path))
    assert found.bytes_per_second == pytest.approx(8e11, rel=0.05)
    assert found.launch_seconds == pytest.approx(4e-5, rel=0.02)
    with pytest.raises(ConfigError, match="holds no times of"):
        gpu_times.main([str(tmp_path)])
    (tmp_path / "driver.csv").write_text("case,step_seconds\nrecipe w16 plain,0.037\nrecipe w4 plain,\n")
    (tmp_path / "throughput.csv").write_text("case,ours clips/s\nstandard,1300\nmany codes,1250\n")
    gpu_times.main([str(tmp_path)])
    assert "driver.csv and throughput.csv: 3 cases, rank correlation" in capsys.readouterr().out


def test_the_profile_of_the_h100_is_found_by_its_name() -> None:
    profile = DeviceProfile.for_gpu("NVIDIA H100 80GB HBM3")
    assert profile.measured
    assert profile.outside_bytes == 654 * MIB
