"""Predicted peak memory of a configuration under a plan, from traces that are remembered."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from trainable.config import TrialConfig
from trainable.data.load import Dataset
from trainable.memory.profile import DeviceProfile
from trainable.memory.program import Peak, Program
from trainable.memory.trace import Form, Pass, sizes_of, trace
from trainable.plan import ExecutionPlan
from trainable.training.batch import CODES_PER_PATCH
from trainable.training.phases import Phase, phase_of
from trainable.training.trainer import KMEANS_CLIPS

MELS = 64
FLOAT_BYTES = 4
Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class DataSizes:
    """What a prediction needs to know of the data."""

    train_frames: int
    """Frames of all training clips together."""
    test_frames: int
    """Frames of all labelled clips together, validation and held-out."""
    train_clips: int
    test_clips: int
    """Clips of the larger of the two labelled splits."""
    n_ids: int

    @classmethod
    def of(cls, dataset: Dataset) -> "DataSizes":
        return cls(
            train_frames=len(dataset.train.frames_TF),
            test_frames=len(dataset.validation.frames_TF) + len(dataset.held_out.frames_TF),
            train_clips=len(dataset.train),
            test_clips=max(len(dataset.validation), len(dataset.held_out)),
            n_ids=len(dataset.ids),
        )

    @property
    def frames_bytes(self) -> int:
        """Packed features of all splits."""
        return (self.train_frames + self.test_frames) * MELS * FLOAT_BYTES


@dataclass(frozen=True)
class Prediction:
    """Peak memory of one configuration under one plan."""

    predicted_bytes: int
    """Everything the process takes on the device, margin included: what a budget is compared with."""
    allocated_bytes: int
    """What ``torch.cuda.max_memory_allocated`` should say, without margin."""
    reserved_bytes: int
    """What the allocator may have to reserve, margin included: the cap of the process."""
    peak_pass: str
    """The pass whose peak it is, such as ``step, phase 2``."""
    breakdown: Mapping[str, int]
    """Bytes by part at that moment; their sum is `predicted_bytes`."""


class Remembered:
    """The values asked for most recently, by key."""

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
"""Traces of this process, about 50 kB each: planners come and go, traces stay true."""


def program_of(config: TrialConfig, n_ids: int, form: Form) -> Program:
    """The trace of a pass, made once for each architecture."""
    model, quantizer = config.model, config.quantizer
    architecture = (
        (model.latent_dim, model.width, model.head_hidden, n_ids, config.optim.gradient_clip > 0),
        (quantizer.num_embeddings, quantizer.codebook_dim, quantizer.distance, quantizer.code_gradient),
        quantizer.revival,
    )
    return _PROGRAMS.get((architecture, form), lambda: trace(config, n_ids, form))


class Predictor:
    """Predicts for one data set and one kind of device.

    Costs a trace (some 0.1 s) for a new architecture, well under a millisecond a plan after that.
    """

    def __init__(self, data: DataSizes, profile: DeviceProfile | None = None):
        self.data = data
        self.profile = profile or DeviceProfile()
        self._peaks = Remembered(4096)

    def predict(self, config: TrialConfig, plan: ExecutionPlan) -> Prediction:
        """The largest peak of all passes that the configuration's training consists of."""
        largest: tuple[Peak, str] | None = None
        for name, peak in self.passes(config, plan):
            if largest is None or peak.allocated_bytes > largest[0].allocated_bytes:
                largest = peak, name
        assert largest is not None
        return self._with_device(*largest, plan)

    def passes(self, config: TrialConfig, plan: ExecutionPlan) -> Iterator[tuple[str, Peak]]:
        """Name and peak of each pass."""
        patch, clips = config.patch, min(plan.micro_batch_clips, config.patch.batch_size, self.data.train_clips)
        largest_batch = min(patch.batch_size, self.data.train_clips)
        for phase in self._phases(config):
            yield (
                f"step, phase {phase}",
                self._peak(config, plan, "step", phase, clips, patch.n_patches, split=clips < largest_batch),
            )
        most_clips = max(self.data.train_clips, self.data.test_clips)
        scored = min(plan.micro_batch_clips, most_clips)
        yield (
            "validation",
            self._peak(
                config,
                plan,
                "validation",
                1,
                scored,
                config.score.score_patches or patch.n_patches,
                split=scored < most_clips,
            ),
        )
        if config.quantizer.kmeans_start:
            sample = min(KMEANS_CLIPS, self.data.train_clips)
            encoded = min(plan.micro_batch_clips, sample)
            yield (
                "codebook start",
                self._peak(config, plan, "codebook_start", 1, encoded, patch.n_patches, split=encoded < sample),
            )

    @staticmethod
    def _phases(config: TrialConfig) -> list[Phase]:
        """Phases whose steps may hold the peak: phase 2 does all that 1 and 3 do, and more."""
        epochs = config.phase.epochs
        turns = {0, epochs - 1, round(config.phase.vq_only_share * epochs)}
        present = {phase_of(config.phase, epoch) for epoch in turns if epoch < epochs}
        return [2] if 2 in present else sorted(present)

    def _peak(
        self,
        config: TrialConfig,
        plan: ExecutionPlan,
        kind: Pass,
        phase: Phase,
        clips: int,
        n_patches: int,
        *,
        split: bool,
    ) -> Peak:
        sample = min(KMEANS_CLIPS, self.data.train_clips) if kind == "codebook_start" else 0
        rows = CODES_PER_PATCH * n_patches * (sample or clips)
        step = kind == "step"
        form = Form(
            kind=kind,
            phase=phase,
            split=split,
            chunked=plan.quantizer_chunk_rows < rows,
            recompute_encoder=step and plan.recompute_encoder,
            recompute_decoder=step and plan.recompute_decoder,
            placement=plan.data_placement,
            precision=plan.precision,
        )
        program = program_of(config, self.data.n_ids, form)
        sizes = sizes_of(
            clips,
            n_patches,
            plan.quantizer_chunk_rows,
            sample_clips=sample,
            rest_clips=min(clips, sample - clips) if split and sample else 0,
        )
        key = (id(program), tuple(sizes.values()))
        profile = self.profile
        return self._peaks.get(
            key,
            lambda: program.peak(
                sizes, round_to=profile.block_bytes, scales={"workspace": profile.convolution_workspace_share}
            ),
        )

    def _with_device(self, peak: Peak, name: str, plan: ExecutionPlan) -> Prediction:
        """Adds what the trace does not see, part by part."""
        profile = self.profile
        data_bytes = 0
        if plan.data_placement == "device":
            # One tensor a split: each is rounded on its own.
            data_bytes = self.data.frames_bytes + 3 * profile.block_bytes
        allocated = peak.allocated_bytes + data_bytes + profile.workspace_bytes
        segments = profile.small_segment_bytes + profile.large_segment_bytes
        fragmentation = segments + int(np.ceil(allocated * profile.fragmentation_share))
        margin = int(np.ceil(allocated * profile.margin_share))
        parts = dict(peak.parts)
        parts["workspace"] = parts.get("workspace", 0) + profile.workspace_bytes
        parts |= {"data": data_bytes, "fragmentation": fragmentation, "margin": margin}
        parts |= {"context": profile.context_bytes, "libraries": profile.library_bytes}
        reserved = allocated + fragmentation + margin
        return Prediction(
            predicted_bytes=reserved + profile.outside_bytes,
            allocated_bytes=allocated,
            reserved_bytes=reserved,
            peak_pass=name,
            breakdown={part: size for part, size in parts.items() if size},
        )
