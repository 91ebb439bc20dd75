"""An out-of-memory error at any point of a trial leaves no trace in what it learns."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.trainable_tests.fake_cuda import fake_cuda
from trainable.config import TrialConfig
from trainable.data.load import Dataset
from trainable.execution_plan import ExecutionPlan, MemoryPlan
from trainable.memory.planner import Planner
from trainable.model.codebook import Codebook
from trainable.model.decoder import Decoder
from trainable.model.encoder import Encoder
from trainable.training import losses as losses_module
from trainable.training import step as step_module
from trainable.training.state import TrainState
from trainable.training.trainer import EpochLosses
from trainable.trial import PlannedTrial, Trial
from trainable.units import GIB

TOLERANCE = 1e-10
CONFIG = TrialConfig.from_flat(
    {"width": 0.25, "latent_dim": 8, "head_hidden": 8, "batch_size": 8, "n_patches": 2, "num_embeddings": 16}
    | {"epochs": 3, "vq_only_share": 0.34, "frozen_share": 0.34, "density": "counts"}
)
WHOLE = ExecutionPlan(micro_batch_clips=8)

pytestmark = pytest.mark.slow


@contextmanager
def failing(owner: Any, name: str, on_call: int, times: int = 1, error: Exception | None = None) -> Iterator[list[int]]:
    """Lets some calls of a function run out of memory, beginning with call number `on_call` (from 1)."""
    real: Callable[..., Any] = getattr(owner, name)
    calls = [0]

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if on_call <= calls[0] < on_call + times:
            raise error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB (injected)")
        return real(*args, **kwargs)

    with mock.patch.object(owner, name, wrapped):
        yield calls


def planned(planner: Planner | None) -> PlannedTrial:
    if planner is None:
        return PlannedTrial(CONFIG, MemoryPlan(WHOLE, 0))
    prediction = planner.predict(CONFIG, WHOLE)
    memory = MemoryPlan(WHOLE, prediction.predicted_bytes, allocated_bytes=prediction.allocated_bytes)
    return PlannedTrial(CONFIG, memory, planner)


def trained(dataset: Dataset, planner: Planner | None) -> tuple[Trial, list[Any]]:
    trial = Trial(planned(planner), dataset, dtype=torch.float64)
    return trial, [trial.step() for _ in range(CONFIG.phase.epochs)]


@pytest.fixture(scope="module")
def planner(tiny_dataset: Dataset) -> Planner:
    planner = Planner.for_dataset(tiny_dataset, budget_bytes=None)
    for plan in planner.candidates(CONFIG):
        planner.predict(CONFIG, plan)  # traced now: an injected error must hit the trial, not the planner's trace
    return planner


@pytest.fixture(scope="module")
def undisturbed(tiny_dataset: Dataset) -> Trial:
    return trained(tiny_dataset, None)[0]


def differences(one: Trial, other: Trial) -> float:
    mine, theirs = one.trainer.state, other.trainer.state
    pairs = list(zip(mine.model.state_dict().values(), theirs.model.state_dict().values(), strict=True))
    for parameter, its in zip(mine.model.parameters(), theirs.model.parameters(), strict=True):
        pairs += [
            (mine.optimizer.state[parameter][key], theirs.optimizer.state[its][key]) for key in ("exp_avg", "step")
        ]
    return max(float((left - right).abs().max()) for left, right in pairs)


# 24 clips in batches of 8: three steps an epoch; each epoch begins phase 1, 2, 3 in turn.
POINTS = {
    "k-means start": (Codebook, "start_from", 1),
    "first batch, forward": (Decoder, "forward", 1),
    "first batch, codebook update": (Codebook, "updated", 1),
    "first optimizer step": (step_module, "_apply_gradients", 1),
    "in backward": (torch.Tensor, "backward", 2),
    "phase 2's first step": (losses_module, "_transform_logits", 1),
    "phase 3": (step_module, "_apply_gradients", 8),
}


@pytest.mark.parametrize("point", POINTS)
def test_result_is_that_of_the_undisturbed_run(
    point: str, tiny_dataset: Dataset, planner: Planner, undisturbed: Trial
) -> None:
    owner, name, on_call = POINTS[point]
    with failing(owner, name, on_call) as calls:
        trial, reports = trained(tiny_dataset, planner)
    assert calls[0] > on_call, "the error should have been injected and the call repeated"
    assert differences(trial, undisturbed) < TOLERANCE
    events = [event for report in reports for event in report.events]
    assert len(events) == 1
    assert "out of memory" in events[0]
    assert "predicted" in events[0]
    assert reports[-1].plan != WHOLE
    assert 0 < reports[-1].predicted_bytes < planner.predict(CONFIG, WHOLE).predicted_bytes
    in_use = planner.predict(CONFIG, trial.trainer.plan)
    assert reports[-1].predicted_allocated_bytes == in_use.allocated_bytes < reports[-1].predicted_bytes


def test_an_error_in_validation(tiny_dataset: Dataset, planner: Planner, undisturbed: Trial) -> None:
    with failing(Encoder, "forward", 5) as calls:  # k-means 24 clips in 3 calls … the first epoch's steps follow
        trial, reports = trained(tiny_dataset, planner)
    assert calls[0] > 5
    assert differences(trial, undisturbed) < TOLERANCE
    with failing(Codebook, "quantize", 4):  # three steps of training, then the scoring pass
        trial, reports = trained(tiny_dataset, planner)
    assert differences(trial, undisturbed) < TOLERANCE
    assert len(reports[0].events) == 1


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        torch.AcceleratorError("CUDA error: out of memory"),
    ],
    ids=["cuDNN", "cuBLAS", "CUDA"],
)
def test_libraries_that_run_out_of_memory(
    error: Exception, tiny_dataset: Dataset, planner: Planner, undisturbed: Trial
) -> None:
    with failing(Decoder, "forward", 2, error=error):
        trial, reports = trained(tiny_dataset, planner)
    assert differences(trial, undisturbed) < TOLERANCE
    assert str(error) in reports[0].events[0]


def test_another_error_is_not_taken_for_one(tiny_dataset: Dataset, planner: Planner) -> None:
    with failing(Decoder, "forward", 2, error=RuntimeError("a bug")), pytest.raises(RuntimeError, match="a bug"):
        trained(tiny_dataset, planner)


class _Outside(TorchDispatchMode):
    """Notes what takes memory of the device while no error would be recovered from."""

    def __init__(self, shapes: set[tuple[int, ...]]):
        super().__init__()  # type: ignore[no-untyped-call]
        self.shapes = shapes
        """The tensors an epoch adds up; on a CPU nothing else tells the device's tensors from the host's."""
        self.recovering = 0
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self.recovering and isinstance(result, torch.Tensor) and result.dtype == torch.float32:
            held = {arg.untyped_storage().data_ptr() for arg in args if isinstance(arg, torch.Tensor)}
            if tuple(result.shape) in self.shapes and result.untyped_storage().data_ptr() not in held:
                self.found.append(str(func))
        return result


def test_nothing_is_allocated_where_no_error_is_recovered_from(tiny_dataset: Dataset) -> None:
    trainer = Trial(planned(None), tiny_dataset).trainer
    outside = _Outside({(len(losses_module.loss_names()),), (CONFIG.quantizer.num_embeddings,)})
    recover = trainer._recovering

    def recovering(attempt: Callable[[], Any]) -> Any:
        outside.recovering += 1
        try:
            return recover(attempt)
        finally:
            outside.recovering -= 1

    with mock.patch.object(trainer, "_recovering", recovering), outside:
        trainer.train_epoch()
    assert outside.found == []


def test_half_made_moments_are_made_again(tiny_dataset: Dataset, planner: Planner, undisturbed: Trial) -> None:
    """The first optimizer step runs out of memory between one parameter's moments and the next."""
    with failing(torch, "zeros_like", 12) as calls:
        trial, reports = trained(tiny_dataset, planner)
    assert calls[0] > 12
    assert sum(len(report.events) for report in reports) == 1
    assert differences(trial, undisturbed) < TOLERANCE


def test_it_ends_only_when_no_smaller_plan_exists(tiny_dataset: Dataset, planner: Planner) -> None:
    with failing(Decoder, "forward", 1, times=10_000) as calls, pytest.raises(torch.OutOfMemoryError) as caught:
        trained(tiny_dataset, planner)
    assert "(injected); under (1 clips" in str(caught.value)
    assert f"after {calls[0] - 1} smaller ones in this epoch" in str(caught.value)
    chain, plan = 0, WHOLE
    while plan is not None:
        chain, plan = chain + 1, planner.next_smaller(CONFIG, plan)  # type: ignore[assignment]
    assert calls[0] == chain > 2


def test_without_a_planner_the_error_is_the_trials_end(tiny_dataset: Dataset) -> None:
    with failing(Decoder, "forward", 1), pytest.raises(torch.OutOfMemoryError):
        trained(tiny_dataset, None)


def test_a_resumed_trial_keeps_to_the_smaller_plan(tiny_dataset: Dataset, planner: Planner, tmp_path: Any) -> None:
    with failing(Decoder, "forward", 1):
        trial, _ = trained(tiny_dataset, planner)
    trial.save(tmp_path)
    again = Trial(planned(planner), tiny_dataset, dtype=torch.float64)
    again.load(tmp_path)
    assert again.trainer.plan == trial.trainer.plan != WHOLE
    assert again.predicted_bytes == planner.predict(CONFIG, trial.trainer.plan).predicted_bytes


class Smaller:
    """A planner with one smaller plan, which predicts nothing."""

    def next_smaller(self, config: TrialConfig, plan: ExecutionPlan) -> ExecutionPlan:
        return ExecutionPlan(micro_batch_clips=4)

    def predict(self, config: TrialConfig, plan: ExecutionPlan) -> MemoryPlan:
        return MemoryPlan(plan, 0)


def test_a_recovered_epoch_reports_the_peak_of_the_plan_it_went_on_with(tiny_dataset: Dataset) -> None:
    smaller = ExecutionPlan(micro_batch_clips=4)
    trial = Trial(PlannedTrial(CONFIG, MemoryPlan(WHOLE, 0), Smaller()), tiny_dataset)
    card = torch.device("cuda", 0)
    train_epoch = trial.trainer.train_epoch

    with fake_cuda(80 * GIB) as fake:

        def attempt() -> None:
            failed = trial.trainer.plan == WHOLE
            fake.hold(9 * GIB if failed else 3 * GIB)
            fake.hold(1 * GIB)
            if failed:
                raise torch.OutOfMemoryError("CUDA out of memory (injected)")

        def on_the_card() -> EpochLosses:
            with mock.patch.object(TrainState, "device", card):
                trial.trainer._recovering(attempt)
            return train_epoch()

        trial.device = card
        with mock.patch.object(trial.trainer, "train_epoch", on_the_card):
            first, second = trial.step(), trial.step()
    assert len(first.events) == 1
    assert first.plan == smaller
    assert first.peak_bytes == 3 * GIB
    assert (second.events, second.peak_bytes) == ((), 3 * GIB)
