"""The fastest exact plan that fits the budget, or why there is none."""

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING

from trainable.config import TrialConfig
from trainable.errors import BudgetError
from trainable.execution_plan import ExecutionPlan, MemoryPlan, Placement, PlanRequest, Precision
from trainable.memory.predict import DataSizes, Prediction, Predictor
from trainable.memory.profile import DeviceProfile
from trainable.model.geometry import geometry_of
from trainable.units import format_bytes

if TYPE_CHECKING:
    from trainable.data.load import Dataset  # which needs more than torch

CHUNKS = (16_384, 4_096, 1_024, 256)
"""Rows of a chunk of distances: more than the first gain no speed, fewer than the last save no memory worth having."""
STEP_DOWN = 0.9
"""After an out-of-memory error the next plan must need at most this share of the one that failed, if any does."""


class Planner:
    """Chooses plans for the configurations of one search: one data set, one budget, one kind of device.

    Parameters
    ----------
    data
        Sizes of the data; no recording is needed.
    budget_bytes
        What a trial may take of the device in total; None = whatever the fastest plan takes.
    request
        The parts of a plan that flags fix.

    Raises
    ------
    BudgetError
        If the budget is smaller than what any process takes before its first tensor.
    """

    def __init__(
        self,
        data: DataSizes,
        *,
        budget_bytes: int | None,
        request: PlanRequest | None = None,
        profile: DeviceProfile | None = None,
    ):
        self.request = request or PlanRequest()
        self.profile = profile or DeviceProfile()
        self.budget_bytes = budget_bytes
        self.data = data
        self._predictor = Predictor(data, self.profile)
        if budget_bytes is not None and budget_bytes <= self.profile.outside_bytes:
            raise BudgetError(
                f"a budget of {format_bytes(budget_bytes)} is less than the {format_bytes(self.profile.outside_bytes)} "
                "that CUDA's context and libraries take before the first tensor; give a larger --gpu-memory-budget"
            )

    @classmethod
    def for_dataset(
        cls,
        dataset: "Dataset",
        *,
        budget_bytes: int | None,
        request: PlanRequest | None = None,
        profile: DeviceProfile | None = None,
    ) -> "Planner":
        return cls(DataSizes.of(dataset), budget_bytes=budget_bytes, request=request, profile=profile)

    def within(self, budget_bytes: int | None) -> "Planner":
        """A planner for another budget that shares this one's predictions. Raises BudgetError as the constructor."""
        other = Planner(self.data, budget_bytes=budget_bytes, request=self.request, profile=self.profile)
        other._predictor = self._predictor
        return other

    def __getstate__(self) -> dict[str, object]:
        """The arguments that make an equal planner in another process; traces are not copied."""
        return {name: value for name, value in self.__dict__.items() if name != "_predictor"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._predictor = Predictor(self.data, self.profile)

    def plan(self, config: TrialConfig) -> MemoryPlan:
        """The fastest plan that fits; if the request says so, the smallest one.

        Takes some milliseconds for each plan that its tensors do not rule out, and a trace for a new architecture.

        If none fits, `MemoryPlan.fits` is false and the result holds the smallest plan and the reason.
        """
        candidates = sorted(self.candidates(config), key=lambda plan: self._preference(config, plan))
        if self.budget_bytes is None and not self.request.smallest:
            return self._answer(candidates[0], self.predict(config, candidates[0]))
        if not self.request.smallest:
            fastest = self.predict(config, candidates[0])
            if self._fits(fastest):
                return self._answer(candidates[0], fastest)
        lean = self._lean(candidates)
        smallest = min(lean, key=lambda plan: self.predict(config, plan).predicted_bytes)
        least = self.predict(config, smallest)
        why_not = "" if self._fits(least) else self._why_not(smallest, least)
        if self.request.smallest or (why_not and self._far_too_large(config, lean)):
            return self._answer(smallest, least, why_not=why_not)
        assert self.budget_bytes is not None
        too_large: list[ExecutionPlan] = [candidates[0]]
        for plan in candidates[1:]:
            # The most recent ones found too large are the most similar.
            if any(_no_smaller(plan, other) for other in reversed(too_large)):
                continue
            if self._predictor.fits(config, plan, self.budget_bytes):
                return self._answer(plan, self.predict(config, plan))
            too_large.append(plan)
        return self._answer(smallest, least, why_not=why_not)

    def _far_too_large(self, config: TrialConfig, lean: list[ExecutionPlan]) -> bool:
        """Whether no plan's tensors alone fit; what the allocator reserves beside them is not least where they are."""
        assert self.budget_bytes is not None
        tensors_bytes = min(self._predictor.allocated_bytes(config, plan) for plan in lean)
        return tensors_bytes + self.profile.outside_bytes > self.budget_bytes

    def predict(self, config: TrialConfig, plan: ExecutionPlan) -> Prediction:
        """The peak of a configuration under any plan."""
        return self._predictor.predict(config, plan)

    def next_smaller(self, config: TrialConfig, plan: ExecutionPlan) -> ExecutionPlan | None:
        """The fastest plan that needs clearly less than `plan`; None if no plan needs less."""
        limit = self.predict(config, plan).reserved_bytes
        # What the tensors take rules most plans out; what the allocator needs for them is computed for the others.
        smaller = [each for each in self.candidates(config) if self._predictor.allocated_bytes(config, each) < limit]
        smaller.sort(key=lambda candidate: self.relative_time(config, candidate))
        for candidate in smaller:
            tensors_bytes = self._predictor.allocated_bytes(config, candidate)
            if tensors_bytes <= STEP_DOWN * limit and self._reserved_bytes(config, candidate) <= STEP_DOWN * limit:
                return candidate
        least = min(smaller, key=lambda candidate: self._reserved_bytes(config, candidate), default=None)
        return least if least is not None and self._reserved_bytes(config, least) < limit else None

    def _reserved_bytes(self, config: TrialConfig, plan: ExecutionPlan) -> int:
        return self.predict(config, plan).reserved_bytes

    def candidates(self, config: TrialConfig) -> Iterator[ExecutionPlan]:
        """Every plan that the request and the configuration allow."""
        request, batch = self.request, config.patch.batch_size
        micro_batches = _halvings(batch)
        if request.micro_batch_clips is not None:
            micro_batches = [min(request.micro_batch_clips, batch)]
        recompute = [(False, False), (True, False), (False, True), (True, True)]
        if request.fixed_recompute is not None:
            recompute = [(request.fixed_recompute, request.fixed_recompute)]
        placements: list[Placement] = ["device", "host"]
        precisions: list[Precision] = ["float32"]
        if request.fixed_amp:
            precisions = [self.profile.amp_precision]
        elif request.fixed_amp is None and config.optim.allow_amp:
            precisions = [self.profile.amp_precision, "float32"]
        for clips, (encoder, decoder), chunk, placement, precision in product(
            micro_batches, recompute, CHUNKS, placements, precisions
        ):
            yield ExecutionPlan(
                micro_batch_clips=clips,
                recompute_encoder=encoder,
                recompute_decoder=decoder,
                quantizer_chunk_rows=chunk,
                data_placement=placement,
                precision=precision,
            )

    def _preference(self, config: TrialConfig, plan: ExecutionPlan) -> tuple[bool, float]:
        """Sorts plans, the best first: by their time; with `memory_saver` those that hold the whole batch come first,
        since recomputation in half precision is to replace the splitting of the batch."""
        splits = plan.micro_batch_clips < config.patch.batch_size
        return self.request.memory_saver and splits, self.relative_time(config, plan)

    def relative_time(self, config: TrialConfig, plan: ExecutionPlan) -> float:
        """Estimated time of a step, in patches that the fastest plan trains in it; only the order matters."""
        profile, patch = self.profile, config.patch
        patches = patch.batch_size * patch.n_patches
        micro_batches, chunks = self.counts(config, plan)
        extra = 1.0
        extra += profile.recompute_encoder_share if plan.recompute_encoder else 0.0
        extra += profile.recompute_decoder_share if plan.recompute_decoder else 0.0
        extra += profile.host_share if plan.data_placement == "host" else 0.0
        computed = patches * extra * (profile.amp_time_share if plan.uses_amp else 1.0)
        # The last term favours the largest chunk where a single chunk holds all rows.
        return (
            computed
            + micro_batches * profile.micro_batch_patches
            + chunks * profile.chunk_patches
            + 1e-3 * CHUNKS.index(plan.quantizer_chunk_rows)
        )

    @staticmethod
    def counts(config: TrialConfig, plan: ExecutionPlan) -> tuple[int, int]:
        """Micro-batches and chunks of distances of a step."""
        patch = config.patch
        micro_batches = -(-patch.batch_size // plan.micro_batch_clips)
        rows = geometry_of(config).codes_per_patch * patch.n_patches * min(plan.micro_batch_clips, patch.batch_size)
        return micro_batches, micro_batches * -(-rows // plan.quantizer_chunk_rows)

    def _lean(self, candidates: list[ExecutionPlan]) -> list[ExecutionPlan]:
        """Candidates that include the smallest plan: the smallest micro-batch and chunk with every other choice.

        Both precisions count: in a narrow model the copies of weights and latents that mixed precision makes outweigh
        the activations it halves.
        """
        clips = min(plan.micro_batch_clips for plan in candidates)
        chunk = min(plan.quantizer_chunk_rows for plan in candidates)
        lean = [p for p in candidates if p.micro_batch_clips == clips and p.quantizer_chunk_rows == chunk]
        for recomputes in ("recompute_encoder", "recompute_decoder"):
            lean = [plan for plan in lean if getattr(plan, recomputes)] or lean
        return [plan for plan in lean if plan.data_placement == "host"] or lean

    def _fits(self, prediction: Prediction) -> bool:
        return self.budget_bytes is None or prediction.predicted_bytes <= self.budget_bytes

    @staticmethod
    def _answer(plan: ExecutionPlan, prediction: Prediction, *, why_not: str = "") -> MemoryPlan:
        return MemoryPlan(
            plan,
            prediction.predicted_bytes,
            fits=not why_not,
            reason=why_not,
            allocated_bytes=prediction.allocated_bytes,
            breakdown=prediction.breakdown,
            peak_pass=prediction.peak_pass,
        )

    def _why_not(self, plan: ExecutionPlan, prediction: Prediction) -> str:
        assert self.budget_bytes is not None
        largest = sorted(prediction.breakdown.items(), key=lambda part: -part[1])[:3]
        parts = ", ".join(f"{name} {format_bytes(size)}" for name, size in largest)
        return (
            f"needs {format_bytes(prediction.predicted_bytes)} even with its smallest plan ({plan.describe()}), "
            f"{format_bytes(prediction.predicted_bytes - self.budget_bytes)} more than the budget of "
            f"{format_bytes(self.budget_bytes)}; largest parts: {parts}"
        )


def _halvings(batch_size: int) -> list[int]:
    """batch_size, then the clips in each of 2, 4, 8 … micro-batches, down to 1."""
    sizes = [batch_size]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 2))
    return sizes


def _no_smaller(plan: ExecutionPlan, other: ExecutionPlan) -> bool:
    """Whether `plan` certainly needs no less than `other`: no choice of it saves memory over the other's."""
    same = (plan.data_placement, plan.precision) == (other.data_placement, other.precision)
    return (
        same
        and plan.micro_batch_clips >= other.micro_batch_clips
        and plan.quantizer_chunk_rows >= other.quantizer_chunk_rows
        and plan.recompute_encoder <= other.recompute_encoder
        and plan.recompute_decoder <= other.recompute_decoder
    )
