"""The work of a training step and of an epoch: the real functions, run on meta tensors.

The project's own models are run once per architecture, at prime sizes, which takes some tenths of a second; then the
work at any batch size, number of patches, codebook size, latent and hidden width takes well under a millisecond. A
configuration with parts of extensions is run at its own sizes, once for each.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trainable.config import TrialConfig
from trainable.device._torch_private import fused_optimizer_on_meta
from trainable.execution_plan import ExecutionPlan, Precision
from trainable.memory.key import memory_key
from trainable.memory.metadata import META
from trainable.memory.predict import DataSizes, Remembered, architecture_of, is_own
from trainable.memory.trace import PRIMES, at_sizes, meta_state, placeholder_batch
from trainable.model.geometry import geometry_of
from trainable.timing.counter import Formula, Work, WorkCounter
from trainable.training.batch import VIEW_SHARE
from trainable.training.encode import encode_clips
from trainable.training.phases import PhaseState
from trainable.training.state import TrainState
from trainable.training.step import train_step

_SIZES = {**{name: size for name, size in PRIMES[0].items() if name != "rest_clips"}, "views": 65_539}
"""Sizes of the run that tells the work at all sizes. `views` is a quarter of `n_patches`, rounded up."""
_PHASE = PhaseState(2, 1.0)
"""The phase of most epochs: heads on, the codebook learns."""
_FORMULAS = Remembered(1024)


@dataclass(frozen=True)
class _Form:
    """What changes the operators of a step, apart from the architecture and all sizes."""

    recompute_encoder: bool
    recompute_decoder: bool
    precision: Precision

    @classmethod
    def of(cls, plan: ExecutionPlan) -> "_Form":
        return cls(plan.recompute_encoder, plan.recompute_decoder, plan.precision)

    def plan(self, clips: int, chunk_rows: int) -> ExecutionPlan:
        return ExecutionPlan(
            micro_batch_clips=clips,
            recompute_encoder=self.recompute_encoder,
            recompute_decoder=self.recompute_decoder,
            quantizer_chunk_rows=chunk_rows,
            precision=self.precision,
        )


@dataclass(frozen=True)
class _Formulas:
    """Work of the parts that steps and scoring passes consist of."""

    part: Formula
    """A micro-batch of a step, all its distances in one chunk."""
    update: Formula
    """What a step does once."""
    encoding: Formula
    """A micro-batch of the scoring pass."""
    chunk_launches: float
    """Launches for each further chunk of distances."""


def step_work(config: TrialConfig, n_ids: int, plan: ExecutionPlan | None = None, clips: int | None = None) -> Work:
    """Work of an optimizer step in phase 2.

    Parameters
    ----------
    n_ids
        Machine ids of the data.
    plan
        None = the whole batch at once, nothing recomputed, float32.
    clips
        Clips of the batch; None = the configuration's.
    """
    plan = plan or _whole(config)
    clips = clips or config.patch.batch_size
    return _work(config, n_ids, plan, clips, "update") + _parts_work(config, n_ids, plan, clips, "part")


def scoring_work(config: TrialConfig, n_ids: int, clips: int, plan: ExecutionPlan | None = None) -> Work:
    """Work of encoding one set of `clips` clips, without the density models, which are fitted on the host."""
    plan = plan or _whole(config)
    n_patches = config.scored_patches
    return _parts_work(config.replace(n_patches=n_patches), n_ids, plan, clips, "encoding")


def epoch_work(config: TrialConfig, data: DataSizes, plan: ExecutionPlan | None = None) -> Work:
    """Work of an epoch: its steps, and the encoding of the training clips and of those that judge.

    The start of the codebook is left out, since only the first epoch has one.
    """
    batch = min(config.patch.batch_size, data.train_clips)
    steps, rest = divmod(data.train_clips, batch)
    work = step_work(config, data.n_ids, plan, batch) * steps
    if rest:
        work += step_work(config, data.n_ids, plan, rest)
    for clips in (data.train_clips, data.test_clips):
        work += scoring_work(config, data.n_ids, clips, plan)
    return work


def _whole(config: TrialConfig) -> ExecutionPlan:
    return ExecutionPlan(micro_batch_clips=config.patch.batch_size)


def _parts_work(config: TrialConfig, n_ids: int, plan: ExecutionPlan, clips: int, part: str) -> Work:
    """The work of `clips` clips in micro-batches, the last one smaller."""
    whole_parts, rest = divmod(clips, plan.micro_batch_clips)
    work = Work()
    if whole_parts:
        work += _work(config, n_ids, plan, plan.micro_batch_clips, part) * whole_parts
    if rest:
        work += _work(config, n_ids, plan, rest, part)
    return work


def _work(config: TrialConfig, n_ids: int, plan: ExecutionPlan, clips: int, part: str) -> Work:
    """The work of a micro-batch of `clips` clips, or of the update after all of them."""
    sizes = _sizes(config, clips)
    formulas = _formulas(config, n_ids, _Form.of(plan), sizes)
    formula: Formula = getattr(formulas, part)
    work = formula.at(sizes)
    if part == "update":
        return work
    rows = geometry_of(config).codes_per_patch * sizes["n_patches"] * clips
    further_chunks = -(-rows // plan.quantizer_chunk_rows) - 1
    return work + Work(launches=further_chunks * formulas.chunk_launches)


def _sizes(config: TrialConfig, clips: int) -> dict[str, int]:
    n_patches = config.patch.n_patches
    return {
        "clips": clips,
        "n_patches": n_patches,
        "views": -(-n_patches // VIEW_SHARE),
        "codes": config.quantizer.num_embeddings,
        "latent_dim": config.model.latent_dim,
        "hidden": config.model.head_hidden,
    }


def _formulas(config: TrialConfig, n_ids: int, form: _Form, sizes: Mapping[str, int]) -> _Formulas:
    """The formulas of an architecture; an extension's hold for these sizes only."""
    if is_own(config):
        run = _Run(at_sizes(config, _SIZES), n_ids, form, _SIZES["clips"], _SIZES["n_patches"], _SIZES)
        return _FORMULAS.get((architecture_of(config, n_ids), form), run.formulas)
    run = _Run(config, n_ids, form, sizes["clips"], sizes["n_patches"], {})
    return _FORMULAS.get((memory_key(config), n_ids, form, run.clips, run.n_patches), run.formulas)


@dataclass(frozen=True)
class _Run:
    """Runs passes of a configuration on meta tensors and counts their work."""

    config: TrialConfig
    n_ids: int
    form: _Form
    clips: int
    """Of a micro-batch."""
    n_patches: int
    primes: Mapping[str, int]

    def formulas(self) -> _Formulas:
        rows = geometry_of(self.config).codes_per_patch * self.clips * self.n_patches
        with fused_optimizer_on_meta():
            state = meta_state(self.config, self.n_ids, self.form.plan(self.clips, rows), trained=True)
            one = self._step(state, 1, rows)
            part = self._step(state, 2, rows).less(one)
            encoding = self._encoding(state, rows)
            further_chunk = self._encoding(state, rows // 2 + 1).less(encoding)
        return _Formulas(part, one.less(part), encoding, further_chunk.launches)

    def _step(self, state: TrainState, micro_batches: int, chunk_rows: int) -> Formula:
        batch = placeholder_batch(self.config, micro_batches * self.clips, self.n_patches)
        frames_TF = _frames(state)
        with WorkCounter(self.primes) as counter:
            train_step(state, frames_TF, batch, self.form.plan(self.clips, chunk_rows), _PHASE)
        return counter.formula

    def _encoding(self, state: TrainState, chunk_rows: int) -> Formula:
        starts_BP = torch.zeros(1, 1, dtype=torch.int64).expand(self.clips, self.n_patches)
        frames_TF = _frames(state)
        with WorkCounter(self.primes) as counter:
            encode_clips(state, frames_TF, starts_BP, self.form.plan(self.clips, chunk_rows))
        return counter.formula


def _frames(state: TrainState) -> Tensor:
    """Features of which patches can be cut; their number does not matter."""
    return torch.zeros(2 * state.geometry.patch_frames, state.geometry.patch_mels, device=META, dtype=state.dtype)
