"""Predicted peak memory of a configuration under a plan, from cached traces."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from trainable.config import TrialConfig
from trainable.data.frontend import N_MELS
from trainable.execution_plan import ExecutionPlan
from trainable.memory.key import memory_key, phases_of
from trainable.memory.profile import DeviceProfile
from trainable.memory.program import NotProportionalError, Peak, Program
from trainable.memory.trace import Form, Pass, sizes_of, trace, trace_exactly
from trainable.memory.tracker import WORKSPACE
from trainable.registry import ARCHITECTURES, QUANTIZERS
from trainable.training.losses import OWN_TERMS, loss_terms
from trainable.training.phases import Phase
from trainable.training.trainer import KMEANS_CLIPS

if TYPE_CHECKING:
    from trainable.data.load import Dataset  # needs more than torch

_log = logging.getLogger(__name__)

FLOAT_BYTES = 4
Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class DataSizes:
    """What a prediction needs to know about the data."""

    train_frames: int
    """Frames of all training clips together."""
    test_frames: int
    """Frames of all labelled clips together, validation and held-out."""
    train_clips: int
    test_clips: int
    """Clips of the larger of the two labelled splits."""
    n_ids: int

    @classmethod
    def of(cls, dataset: "Dataset") -> "DataSizes":
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
        return (self.train_frames + self.test_frames) * N_MELS * FLOAT_BYTES


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


_PROGRAMS = Remembered(256)
"""Traces of this process, about 0.1 MB each, shared by all its planners."""


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
    model, quantizer, loss = config.model, config.quantizer, config.loss
    projected = quantizer.codebook_dim not in (0, model.latent_dim)
    # Whatever else these two sections hold counts, so that a new knob cannot be forgotten.
    structure = {**asdict(model), **asdict(quantizer), "codebook_dim": quantizer.codebook_dim if projected else 0}
    return (
        (n_ids, *(value for name, value in structure.items() if name not in _SIZES_AND_RATES)),
        (
            config.optim.gradient_clip > 0,
            *(weight > 0 for weight in (loss.texture_weight, loss.id_weight, loss.transform_weight)),
        ),
    )


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


class Predictor:
    """Predicts for one data set and one kind of device.

    Takes a trace (about 0.1 s) for a new architecture, then well under a millisecond per plan.
    """

    def __init__(self, data: DataSizes, profile: DeviceProfile | None = None):
        self.data = data
        self.profile = profile or DeviceProfile()
        self._peaks = Remembered(4096)

    def predict(self, config: TrialConfig, plan: ExecutionPlan) -> Prediction:
        """The largest peak among all passes of the configuration's training."""
        largest: tuple[Peak, str] | None = None
        for name, peak in self.passes(config, plan):
            if largest is None or peak.allocated_bytes > largest[0].allocated_bytes:
                largest = peak, name
        assert largest is not None
        return self._with_device(*largest, plan)

    def fits(self, config: TrialConfig, plan: ExecutionPlan, budget_bytes: int) -> bool:
        """Whether the prediction is within a budget; stops at the first pass that is not."""
        return all(
            self._with_device(peak, name, plan).predicted_bytes <= budget_bytes
            for name, peak in self.passes(config, plan)
        )

    def passes(self, config: TrialConfig, plan: ExecutionPlan) -> Iterator[tuple[str, Peak]]:
        """Name and peak of each pass."""
        patch, clips = config.patch, min(plan.micro_batch_clips, config.patch.batch_size, self.data.train_clips)
        largest_batch = min(patch.batch_size, self.data.train_clips)
        for phase in peak_phases(config):
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
        step = kind == "step"
        form = Form(
            kind=kind,
            phase=phase,
            recompute_encoder=step and plan.recompute_encoder,
            recompute_decoder=step and plan.recompute_decoder,
            precision=plan.precision,
        )
        # With a single micro-batch, what follows it runs beside the leftovers of all clips, not only of the last ones.
        rest = (min(clips, sample - clips) if split else clips) if sample else 0
        sizes = sizes_of(config, clips, n_patches, plan.quantizer_chunk_rows, sample_clips=sample, rest_clips=rest)
        profile = self.profile

        def make() -> Peak:
            program = program_of(config, self.data.n_ids, form)
            if program is None:
                held = replace(plan, micro_batch_clips=clips)
                total = sample or (2 * clips if split else clips)
                program = trace_exactly(config, self.data.n_ids, form, held, total, n_patches)
            return program.peak(
                sizes,
                whole=not split,
                round_to=profile.block_bytes,
                scales={WORKSPACE: profile.convolution_workspace_share},
            )

        key = (architecture_of(config, self.data.n_ids), form, tuple(sizes.values()), split)
        return self._peaks.get(key, make)

    def _with_device(self, peak: Peak, name: str, plan: ExecutionPlan) -> Prediction:
        """Adds what the trace does not see, part by part."""
        profile = self.profile
        data_bytes = 0
        if plan.data_placement == "device":
            # One tensor per split, each rounded separately.
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


def peak_phases(config: TrialConfig) -> tuple[Phase, ...]:
    """Phases whose steps may hold the peak of a training: only phase 2 if it occurs, since it does all that 1 and 3 do.

    All phases count if a registered loss term does not count in phase 2.
    """
    present = phases_of(config.phase)
    only_elsewhere = any(2 not in term.phases for term in loss_terms() if term.is_on(config))
    return (2,) if 2 in present and not only_elsewhere else present
