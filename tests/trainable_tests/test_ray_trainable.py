"""The actor of a slot, driven by hand: endings, and what it must give back before its next trial. No Ray runs here."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.search_tests.synthetic import SyntheticTrial
from trainable import ray_trainable
from trainable.config import TrialConfig
from trainable.device.cap import MemoryInUse, memory_in_use
from trainable.errors import BudgetError
from trainable.ray_trainable import ENDED, REASON, REPORT, MemoryKeptError, RayTrial, trial_config
from trainable.record import TrialEnd, TrialStart
from trainable.training.checkpoint import list_checkpoints
from trainable.units import GIB, MIB

pytestmark = [pytest.mark.filterwarnings("ignore")]


def config_of(folder: Path, number: int, ends: Sequence[int] = (3,)) -> dict[str, Any]:
    start = TrialStart(
        number=number,
        params={},
        config=TrialConfig(),
        plan=None,
        predicted_bytes=0,
    )
    return trial_config(start, checkpoints=str(folder / str(number)), reported=0, ends=ends, label=f"trial {number}")


def actor(folder: Path, factory: Any = SyntheticTrial, **options: Any) -> RayTrial:
    """An actor whose first trial is number 0."""

    class Here(RayTrial):
        def setup(self, config: dict[str, Any], **_: Any) -> None:
            super().setup(config, factory=factory, **options)

    return Here(config_of(folder, 0))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError("no more"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
def test_running_out_of_memory_is_an_ending(error: Exception, tmp_path: Path) -> None:
    class Full(SyntheticTrial):
        def step(self) -> Any:
            raise error

    result = actor(tmp_path, Full).step()
    assert result[ENDED] == "out_of_memory"
    assert str(error) in result[REASON]


def test_another_error_is_rays_to_retry(tmp_path: Path) -> None:
    class Broken(SyntheticTrial):
        def step(self) -> Any:
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        actor(tmp_path, Broken).step()


def test_its_process_is_named_after_the_trial_in_every_call(tmp_path: Path) -> None:
    """Ray names the process anew for each call, so a name that is set once is gone when the first epoch begins."""
    names: list[str] = []
    here = actor(tmp_path, name_process=names.append)
    here.step()
    here.step()
    assert here.reset_config(config_of(tmp_path, 1))
    here.step()
    assert names == ["trial 0"] * 3 + ["trial 1"] * 2


def test_an_epoch_is_a_result(tmp_path: Path) -> None:
    assert REPORT in actor(tmp_path).step()


def test_an_epoch_that_may_be_the_last_is_saved_before_its_report_and_others_after_it(tmp_path: Path) -> None:
    slot = actor(tmp_path)
    assert slot.reset_config(config_of(tmp_path, 1, ends=(2, 4)))
    saved = []
    for _ in range(4):
        slot.step()
        saved.append(list(list_checkpoints(tmp_path / "1")))
    assert saved == [[], [1, 2], [1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        (MemoryInUse(), MemoryInUse(), None),
        (MemoryInUse(), MemoryInUse(allocated_bytes=MIB, reserved_bytes=2 * MIB), "1.00 MiB of tensors"),
        (MemoryInUse(), MemoryInUse(reserved_bytes=64 * MIB), "64.0 MiB that its allocator reserves"),
        (MemoryInUse(outside_bytes=500 * MIB), MemoryInUse(outside_bytes=550 * MIB), None),  # kernels loaded meanwhile
        (
            MemoryInUse(outside_bytes=500 * MIB),
            MemoryInUse(outside_bytes=565 * MIB),
            "65.0 MiB outside of its allocator",
        ),
        (MemoryInUse(outside_bytes=500 * MIB), MemoryInUse(outside_bytes=3 * GIB), "2.51 GiB outside of its allocator"),
        (
            MemoryInUse(),
            MemoryInUse(outside_bytes=3 * GIB),
            None,
        ),  # nothing to compare with: no context before the first trial, and nothing measured in it
    ],
)
def test_an_actor_that_keeps_memory_is_replaced(
    before: MemoryInUse, after: MemoryInUse, kept: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_trainable, "memory_in_use", lambda: before)
    slot = actor(tmp_path)
    slot.step()
    monkeypatch.setattr(ray_trainable, "memory_in_use", lambda: after)
    assert slot.reset_config(config_of(tmp_path, 1))
    if kept is None:
        assert REPORT in slot.step()
        return
    with pytest.raises(MemoryKeptError, match=f"the trial before left {kept} in this worker"):
        slot.step()


def test_what_was_measured_at_the_cap_is_the_baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first trial there is no context; after it the driver counts more than context and libraries."""
    monkeypatch.setattr(ray_trainable, "measured_outside_bytes", lambda: 600 * MIB)
    slot = actor(tmp_path)
    slot.step()
    monkeypatch.setattr(ray_trainable, "memory_in_use", lambda: MemoryInUse(outside_bytes=700 * MIB))
    assert slot.reset_config(config_of(tmp_path, 1))
    with pytest.raises(MemoryKeptError, match="left 100 MiB outside of its allocator"):
        slot.step()


def test_a_trial_that_no_plan_fits_in_this_process_ends(tmp_path: Path) -> None:
    def refuse(start: TrialStart) -> Any:
        raise BudgetError("no plan fits the 640 MiB budget")

    result = actor(tmp_path, refuse).step()
    assert result[ENDED] == "out_of_memory"
    assert result[REASON] == "BudgetError: no plan fits the 640 MiB budget"


def test_the_next_trial_is_not_charged_for_it() -> None:
    from search.runners.ray_tune import _Placed, _Session

    session = object.__new__(_Session)
    session.conductor = SimpleNamespace(retry=lambda number: pytest.fail("a failure was counted"))  # type: ignore[assignment]
    session.placed, session.waiting = {7: _Placed("start", 0)}, []  # type: ignore[arg-type]
    session.failed(7, TrialEnd.CRASHED, "MemoryKeptError: the trial before left 64.0 MiB in this worker")
    assert session.waiting == ["start"]
    assert session.placed == {}


def test_on_a_cpu_nothing_is_held() -> None:
    assert memory_in_use() == MemoryInUse()
