"""The measured profile reaches planner, cap and packing, in a search and in a single training."""

import logging
from pathlib import Path
from typing import Any

import pytest

from search import session
from search.options import SearchOptions
from search.runners.factory import TrialFactory
from search.runners.packing import Node
from search.runners.ray_session import RaySession
from tests.trainable_tests.fake_cuda import fake_cuda
from trainable import train
from trainable.commandline import run
from trainable.config import TrialConfig
from trainable.data.load import Dataset
from trainable.device import cap
from trainable.errors import ConfigError
from trainable.execution_plan import ExecutionPlan
from trainable.memory.planner import Planner
from trainable.memory.profile import DeviceProfile
from trainable.record import TrialStart
from trainable.units import GIB, MIB

START = TrialStart(
    number=0, params={}, config=TrialConfig(), plan=ExecutionPlan(micro_batch_clips=16), predicted_bytes=0
)
PROFILE = DeviceProfile(name="Fake GPU", measured=True, reserve_bytes=3 * GIB, context_bytes=300 * MIB)


def test_it_is_found_by_the_name_of_the_gpu(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    PROFILE.save(tmp_path / "fake.json")
    assert DeviceProfile.for_gpu("Fake GPU", tmp_path) == PROFILE
    assert DeviceProfile.for_gpu(None, tmp_path) == DeviceProfile()
    assert not caplog.records
    assert DeviceProfile.for_gpu("Another GPU", tmp_path / "none") == DeviceProfile()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "no profile was measured on Another GPU" in caplog.text


def test_a_search_takes_the_one_named_or_the_cards_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []
    monkeypatch.setattr(DeviceProfile, "for_gpu", classmethod(lambda cls, gpu: asked.append(gpu) or PROFILE))
    monkeypatch.setattr(session, "expandable_segments_work", lambda device: False)
    named = SearchOptions(space="x", profile=DeviceProfile(name="named").to_dict())
    assert session._profile(named, "cuda", None).name == "named"
    assert session._profile(SearchOptions(space="x"), "cpu", None) == DeviceProfile()
    with fake_cuda(8 * GIB):
        assert session._profile(SearchOptions(space="x"), "cuda", None) == PROFILE.with_segments(False)
    node = Node("a", 8, 1, 80 * GIB)
    ray = RaySession(None, (node,), {"a": 80 * GIB}, frozenset({"Fake GPU"}))
    assert session._profile(SearchOptions(space="x"), "cuda", ray) == PROFILE
    assert asked == ["Fake GPU", "Fake GPU"]


def test_a_card_is_packed_with_its_own_reserve() -> None:
    ray = RaySession(None, (Node("a", 8, 1, 24 * GIB),))
    options = SearchOptions(space="x", budget_bytes=11 * GIB)
    assert [kind.count for kind in ray.slots(options, "cuda")] == [2]
    assert [kind.count for kind in ray.slots(options, "cuda", PROFILE)] == [1]


def test_a_trial_is_capped_by_it(tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    caps: list[tuple[Any, ...]] = []
    monkeypatch.setattr(cap, "cap_process_memory", lambda *given: caps.append(given))
    planner = Planner.for_dataset(tiny_dataset, budget_bytes=2 * GIB, profile=PROFILE)
    TrialFactory(tiny_dataset, planner, "cpu", 2 * GIB)(START)
    assert caps == [(2 * GIB, "cpu", PROFILE.outside_bytes, "amp_bfloat16")]


@pytest.mark.slow
def test_a_single_training_plans_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A context larger than the budget: only with the file does nothing fit."""
    DeviceProfile(name="huge", context_bytes=4 * GIB).save(tmp_path / "huge.json")
    flags = ["--device", "cpu", "--gpu-memory-budget", "3GiB", "--profile", str(tmp_path / "huge.json")]
    assert run(train.main, flags) == 2
    assert "4.06 GiB that CUDA's context and libraries take" in capsys.readouterr().err
    assert run(train.main, [*flags[:-1], "nowhere.json"]) == 2
    assert "nowhere.json" in capsys.readouterr().err


def test_several_trials_in_one_process_on_a_gpu_are_refused() -> None:
    """They would share the cap of one."""
    with pytest.raises(ConfigError, match="--local --concurrency 3 would run 3 trials"):
        session._check_local(SearchOptions(space="x", local=True, concurrency=3), "cuda")
    session._check_local(SearchOptions(space="x", local=True, concurrency=3), "cpu")
    session._check_local(SearchOptions(space="x", local=True), "cuda")
