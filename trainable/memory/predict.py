"""Predicted peak memory of a configuration under a plan, from cached traces."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from trainable.config import ModelConfig, QuantizerConfig, TrialConfig
from trainable.data.frontend import N_MELS
from trainable.execution_plan import ExecutionPlan
from trainable.memory.key import memory_key, phases_of
from trainable.memory.profile import DeviceProfile
from trainable.memory.program import Ints, NotProportionalError, Peak, Program, Scale, Timeline
from trainable.memory.replay import Replay
from trainable.memory.trace import Form, Pass, sizes_of, trace, trace_exactly
from trainable.memory.tracker import CUBLAS, SPLIT_SUMS, WORKSPACE
from trainable.registry import ARCHITECTURES, QUANTIZERS
from trainable.training.losses import OWN_TERMS, loss_terms
from trainable.training.phases import Phase
from trainable.training.trainer import KMEANS_CLIPS

if TYPE_CHECKING:
    from trainable.data.load import Dataset  # needs more than torch

_log = logging.getLogger(__name__)

MOST_PARTS = 4
"""Micro-batches that are replayed: later ones find their blocks where the ones before left them."""
Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class DataSizes:
    """What a prediction needs to know about the data."""

    train_frames: int
    """Frames of all training clips together."""
    test_frames: int
    """Frames of all clips that are scored and not trained on: labelled, held back, pseudo-anomalies."""
    train_clips: int
    test_clips: int
    """Clips of the largest set of them."""
    n_ids: int
    feature_bytes: int = 4
    """Of a number of the packed features."""

    @classmethod
    def of(cls, dataset: "Dataset") -> "DataSizes":
        return cls(
            train_frames=len(dataset.train.frames_TF),
            test_frames=sum(len(clips.frames_TF) for clips in dataset.evaluated),
            train_clips=len(dataset.train),
            test_clips=max(map(len, dataset.evaluated)),
            n_ids=len(dataset.ids),
            feature_bytes=dataset.train.frames_TF.itemsize,
        )

    @property
    def frames_bytes(self) -> int:
        """Packed features of all splits."""
        return (self.train_frames + self.test_frames) * N_MELS * self.feature_bytes


@dataclass(frozen=True)
class Prediction:
    """Peak memory of one configuration under one plan."""

    predicted_bytes: int
    """Everything the process takes on the device, with margin; compared with the budget."""
    allocated_bytes: int
    """What ``torch.cuda.max_memory_allocated`` should say, without margin."""
    reserved_bytes: int
    """What the allocator may have to reserve, with margin: the cap of the process."""
    peak_pass: str
    """The pass with the peak, such as ``step, phase 2``."""
    breakdown: Mapping[str, int]
    """Bytes by part at that moment; their sum is `predicted_bytes`."""


class Remembered:
    """A least-recently-used cache."""

    def __init__(self, most: int):
        self._most = most
        self._values: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        if key in self._values:
            self._values.move_to_end(key)
        else:
            self._values[key] = make()
            if len(self._values) > self._most:
                self._values.popitem(last=False)
        value: Value = self._values[key]
        return value


_PROGRAMS = Remembered(512)
"""Traces of this process, about 0.1 MB each, shared by all its planners.

`search.plan` on `ad_gpu` asks for 140 of them where it plans a sample of 128 under one budget, for 310 under four.
"""


def is_own(config: TrialConfig) -> bool:
    """Whether all parts are the project's own; its tests confirm that their allocations are proportional."""
    extra = any(term.is_on(config) for term in loss_terms() if term not in OWN_TERMS)
    own = config.model.model in ARCHITECTURES.own and config.quantizer.quantizer in QUANTIZERS.own
    return own and not extra


def architecture_of(config: TrialConfig, n_ids: int) -> tuple[Hashable, Hashable]:
    """What a trace depends on, apart from the sizes that a program is a function of."""
    if not is_own(config):
        # An extension may read any knob, so all knobs that memory may depend on count.
        return n_ids, memory_key(config).rest
    loss = config.loss
    return (
        (n_ids, *_structure(config.model, config.quantizer)),
        (
            config.optim.gradient_clip > 0,
            *(weight > 0 for weight in (loss.texture_weight, loss.id_weight, loss.transform_weight)),
        ),
    )


@lru_cache(4096)  # asked for thousands of times a plan
def _structure(model: ModelConfig, quantizer: QuantizerConfig) -> tuple[Hashable, ...]:
    codebook_dim = quantizer.codebook_dim if quantizer.projects(model.latent_dim) else 0
    # Whatever else these two sections hold counts, so that a new knob cannot be forgotten.
    structure = {**asdict(model), **asdict(quantizer), "codebook_dim": codebook_dim}
    return tuple(value for name, value in structure.items() if name not in _SIZES_AND_RATES)


_SIZES_AND_RATES = frozenset(
    {"latent_dim", "head_hidden", "num_embeddings", "ema_decay", "kmeans_start", "dead_threshold"}
)
"""Knobs of model and quantizer that a program is a function of, or that no allocation depends on."""


def program_of(config: TrialConfig, n_ids: int, form: Form) -> Program | None:
    """The trace of a pass, made once per architecture; None if it must be traced for each size."""

    def make() -> Program | None:
        try:
            # A test confirms by second traces that own parts are proportional; one here would double the time.
            return trace(config, n_ids, form, verify=not is_own(config))
        except NotProportionalError as error:
            _log.warning("%s; it is traced again for each of them", error)
            return None

    return _PROGRAMS.get((architecture_of(config, n_ids), form), make)


@dataclass(frozen=True)
class SizedPass:
    """A pass of a configuration's training under a plan, at its real sizes."""

    name: str
    """Such as ``step, phase 2``."""
    form: Form
    clips: int
    """Clips of a micro-batch."""
    n_patches: int
    sizes: tuple[tuple[str, int], ...]
    parts: int
    """Number of micro-batches."""


class Predictor:
    """Predicts for one data set and one kind of device.

    Takes traces (about 0.2 s) for a new architecture. Then the largest sum of blocks takes well under a millisecond
    per plan, and what the allocator reserves for them some ten milliseconds.
    """

    def __init__(self, data: DataSizes, profile: DeviceProfile | None = None):
        self.data = data
        self.profile = profile or DeviceProfile()
        self._peaks = Remembered(4096)
        self._replays = Remembered(1024)
        self._exact = Remembered(64)

    def predict(self, config: TrialConfig, plan: ExecutionPlan) -> Prediction:
        """The largest peak among all passes of the configuration's training, and what the allocator reserves."""
        return self._with_device(config, plan, *self._largest(config, plan))

    def allocated_bytes(self, config: TrialConfig, plan: ExecutionPlan) -> int:
        """`Prediction.allocated_bytes` alone, which takes a fraction of the time."""
        peak, sized = self._largest(config, plan)
        return peak.allocated_bytes + self._workspace_bytes(sized) + self._data_bytes(plan)

    def _largest(self, config: TrialConfig, plan: ExecutionPlan) -> tuple[Peak, SizedPass]:
        """The pass with the largest peak."""
        peaks = [(self._peak(config, plan, sized), sized) for sized in self.passes(config, plan)]
        return max(peaks, key=lambda pair: pair[0].allocated_bytes + self._workspace_bytes(pair[1]))

    def fits(self, config: TrialConfig, plan: ExecutionPlan, budget_bytes: int) -> bool:
        """Whether the prediction is within a budget; the sum of the blocks alone rules most others out."""
        if self.allocated_bytes(config, plan) + self.profile.outside_bytes > budget_bytes:
            return False
        return self.predict(config, plan).predicted_bytes <= budget_bytes

    def passes(self, config: TrialConfig, plan: ExecutionPlan) -> Iterator[SizedPass]:
        """Every pass that may hold the peak, in the order of a training."""
        patch, clips = config.patch, min(plan.micro_batch_clips, config.patch.batch_size, self.data.train_clips)
        if config.quantizer.kmeans_start:
            sample = min(KMEANS_CLIPS, self.data.train_clips)
            encoded = min(plan.micro_batch_clips, sample)
            yield self._sized(
                config, plan, "codebook start", "codebook_start", 1, encoded, patch.n_patches, total=sample
            )
        largest_batch = min(patch.batch_size, self.data.train_clips)
        for phase in peak_phases(config):
            name = f"step, phase {phase}"
            yield self._sized(config, plan, name, "step", phase, clips, patch.n_patches, total=largest_batch)
        most_clips = max(self.data.train_clips, self.data.test_clips)
        scored = min(plan.micro_batch_clips, most_clips)
        n_patches = config.scored_patches
        yield self._sized(config, plan, "validation", "validation", 1, scored, n_patches, total=most_clips)

    def _sized(
        self,
        config: TrialConfig,
        plan: ExecutionPlan,
        name: str,
        kind: Pass,
        phase: Phase,
        clips: int,
        n_patches: int,
        *,
        total: int,
    ) -> SizedPass:
        sample = min(KMEANS_CLIPS, self.data.train_clips) if kind == "codebook_start" else 0
        step = kind == "step"
        parts = -(-total // clips)
        # With a single micro-batch, what follows it runs beside the leftovers of all clips, not only of the last ones.
        rest = (min(clips, sample - clips) if parts > 1 else clips) if sample else 0
        sizes = sizes_of(config, clips, n_patches, plan.quantizer_chunk_rows, sample_clips=sample, rest_clips=rest)
        form = Form(
            kind=kind,
            phase=phase,
            recompute_encoder=step and plan.recompute_encoder,
            recompute_decoder=step and plan.recompute_decoder,
            precision=plan.precision,
            one_chunk=sizes["rest_rows"] == 0,
            feature_bytes=self.data.feature_bytes,
        )
        return SizedPass(name, form, clips, n_patches, tuple(sizes.items()), parts)

    def _program(self, config: TrialConfig, plan: ExecutionPlan, sized: SizedPass) -> Program:
        n_ids = self.data.n_ids
        program = program_of(config, n_ids, sized.form)
        if program is not None:
            return program

        def make() -> Program:
            held = replace(plan, micro_batch_clips=sized.clips)
            clips = dict(sized.sizes)["sample_clips"] or min(2, sized.parts) * sized.clips
            return trace_exactly(config, n_ids, sized.form, held, clips, sized.n_patches)

        return self._exact.get((architecture_of(config, n_ids), sized), make)

    def _peak(self, config: TrialConfig, plan: ExecutionPlan, sized: SizedPass) -> Peak:
        def make() -> Peak:
            return self._program(config, plan, sized).peak(
                dict(sized.sizes), whole=sized.parts == 1, round_to=self.profile.block_bytes, scales=self._scales
            )

        return self._peaks.get((architecture_of(config, self.data.n_ids), sized), make)

    def _timeline(self, config: TrialConfig, plan: ExecutionPlan, sized: SizedPass) -> Timeline:
        return self._program(config, plan, sized).timeline(
            dict(sized.sizes),
            parts=min(sized.parts, MOST_PARTS),
            round_to=self.profile.block_bytes,
            scales=self._scales,
        )

    @property
    def _scales(self) -> Mapping[str, Scale]:
        profile = self.profile
        return {
            WORKSPACE: Scale(profile.convolution_workspace_share),
            SPLIT_SUMS: Scale(profile.split_sums, profile.split_sums_most_bytes),
            **dict.fromkeys(CUBLAS, Scale(0.0)),
        }

    def _workspace_bytes(self, sized: SizedPass) -> int:
        """cuBLAS's workspaces: before the first step no thread but the main one has one."""
        before_steps = sized.form.kind == "codebook_start"
        return self.profile.thread_workspace_bytes if before_steps else self.profile.workspace_bytes

    def _data_bytes(self, plan: ExecutionPlan) -> int:
        """Features on the device; one tensor per split, each rounded separately."""
        return self.data.frames_bytes + 3 * self.profile.block_bytes if plan.data_placement == "device" else 0

    def _needed_bytes(self, config: TrialConfig, plan: ExecutionPlan) -> int:
        """What the allocator may have to reserve over a training (see `trainable.memory.replay`)."""
        passes = list(self.passes(config, plan))
        key = architecture_of(config, self.data.n_ids), tuple(passes), plan.data_placement

        def make() -> int:
            timelines = {each.name: self._timeline(config, plan, each) for each in passes}
            steps = [timelines[each.name] for each in passes if each.form.kind == "step"]
            replay = Replay(self.profile.thread_workspace_bytes, expandable=self.profile.expandable_segments)
            replay.begin(steps[0])
            if plan.data_placement == "device":
                replay.hold(self._frames_bytes(self.data.train_frames))
            if "codebook start" in timelines:
                replay.other(timelines["codebook start"])
            replay.step(steps[0], first=True)
            for step in steps:
                replay.step(step, first=False)
            if plan.data_placement == "device":
                replay.hold(self._frames_bytes(self.data.test_frames))
            replay.other(timelines["validation"])
            for step in steps:  # the next epoch, which finds the validation clips on the device
                replay.step(step, first=False)
            return replay.needed_bytes

        return self._replays.get(key, make)

    def _frames_bytes(self, frames: int) -> Ints:
        unit = self.profile.block_bytes
        return np.array([-(-frames * N_MELS * self.data.feature_bytes // unit) * unit])

    def _with_device(self, config: TrialConfig, plan: ExecutionPlan, peak: Peak, sized: SizedPass) -> Prediction:
        """Adds what the trace does not see, part by part."""
        profile = self.profile
        data_bytes, workspace_bytes = self._data_bytes(plan), self._workspace_bytes(sized)
        allocated = peak.allocated_bytes + data_bytes + workspace_bytes
        needed = self._needed_bytes(config, plan)
        margin = int(np.ceil(allocated * profile.margin_share))
        parts = dict(peak.parts)
        parts[WORKSPACE] = parts.get(WORKSPACE, 0) + workspace_bytes
        parts |= {"data": data_bytes, "fragmentation": needed - allocated, "margin": margin}
        parts |= {"context": profile.context_bytes, "libraries": profile.library_bytes}
        reserved = needed + margin
        return Prediction(
            predicted_bytes=reserved + profile.outside_bytes,
            allocated_bytes=allocated,
            reserved_bytes=reserved,
            peak_pass=sized.name,
            breakdown={part: size for part, size in parts.items() if size},
        )


def peak_phases(config: TrialConfig) -> tuple[Phase, ...]:
    """Phases whose steps may hold the peak of a training: only phase 2 if it occurs, since it does all that 1 and 3 do.

    All phases count if a registered loss term does not count in phase 2.
    """
    present = phases_of(config.phase)
    only_elsewhere = any(2 not in term.phases for term in loss_terms() if term.is_on(config))
    return (2,) if 2 in present and not only_elsewhere else present
