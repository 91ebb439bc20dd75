"""Loss terms: what a step minimises, each declared once. docs/extending.md shows how to register a new one.

Shapes: B clips, P patches a clip, X = B·P patches of F mel bins and T frames, V transformed patches a clip, D latent
width, a code grid of H rows and W columns.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from trainable.config import Knob, TrialConfig, own_knobs
from trainable.errors import ConfigError
from trainable.execution_plan import ExecutionPlan
from trainable.model.heads import clip_latents
from trainable.model.quantizer import Quantized
from trainable.model.texture import cell_deviations
from trainable.model.transforms import TransformDraws, apply_transforms
from trainable.registry import LOSS_TERMS
from trainable.training.batch import Batch, to_device
from trainable.training.phases import Phase, PhaseState
from trainable.training.state import TrainState


@dataclass(frozen=True)
class StepValues:
    """What a step has computed for some whole clips before their losses."""

    state: TrainState
    part: Batch
    """The clips: labels and draws."""
    plan: ExecutionPlan
    patches_BPFT: Tensor
    patches_XFT: Tensor
    """The same, clip after clip."""
    latents_XDHW: Tensor
    """Output of the encoder, in half precision under mixed precision."""
    quantized: Quantized
    grid_XDHW: Tensor
    """Code vectors as the decoder gets them, with the quantizer's gradient."""
    reconstructed_XFT: Tensor
    mixed_precision: Callable[[], AbstractContextManager[None]]
    """Autocast according to the plan; a head's forward pass runs in it."""


@dataclass(frozen=True, kw_only=True)
class LossTerm:
    """One term of the loss.

    Raises
    ------
    ConfigError
        If it counts in no phase, or in one that does not exist.
    """

    name: str
    """Its name; reports and tables call it ``<name>_loss``."""
    value: Callable[[StepValues], Tensor]
    """A scalar on the step's device, before weighting: a mean over the clips given, so that every plan gives one."""
    weight: Knob | None
    """The knob that weighs it (`trainable.config.weight_knob` makes one); 0 switches it off and costs nothing.

    None means a weight of 1: the reconstruction."""
    phases: tuple[Phase, ...] = (1, 2, 3)
    """Phases in which it counts; in others it is 0."""
    head: Callable[[TrialConfig, int], nn.Module] | None = None
    """Builds the term's trainable module from the configuration and the number of machine ids; `value` finds it as
    ``values.state.model.extra_heads[name]``."""
    shown: bool = True
    """Whether reports, TensorBoard and tables show it."""
    scale: Callable[[PhaseState], float] | None = None
    """Factor on its weight per epoch."""
    measured_at_zero: bool = False
    """Whether it is computed at weight 0 too, for reports."""

    def __post_init__(self) -> None:
        if not self.phases or not set(self.phases) <= {1, 2, 3}:
            raise ConfigError(f"loss term {self.name} counts in the phases {self.phases}; give one or more of 1, 2, 3")

    def weight_in(self, config: TrialConfig, phase: PhaseState) -> float:
        """Its factor in the total; 0 where it does not count."""
        if phase.phase not in self.phases:
            return 0.0
        weight = 1.0 if self.weight is None else float(config.value(self.weight))
        return weight if self.scale is None else weight * self.scale(phase)

    def is_on(self, config: TrialConfig) -> bool:
        """Whether its weight is above 0."""
        return self.weight is None or config.value(self.weight) > 0


def _reconstruction(values: StepValues) -> Tensor:
    return F.mse_loss(values.reconstructed_XFT.to(values.state.dtype), values.patches_XFT)


def _commitment(values: StepValues) -> Tensor:
    return values.quantized.commitment_loss


def _texture(values: StepValues) -> Tensor:
    state = values.state
    assert state.model.texture is not None
    with values.mixed_precision():
        deviations_XHW = state.model.texture(values.grid_XDHW)
    return F.mse_loss(deviations_XHW.to(state.dtype), cell_deviations(values.patches_XFT, state.geometry))


def _id(values: StepValues) -> Tensor:
    state = values.state
    with values.mixed_precision():
        logits = state.model.heads.machine_id(clip_latents(values.latents_XDHW, values.patches_BPFT.shape[1]))
    return F.cross_entropy(logits.to(state.dtype), to_device(values.part.id_labels_B, state.device))


def _transform(values: StepValues) -> Tensor:
    with values.mixed_precision():
        logits, draws = _transform_logits(values)
    return F.cross_entropy(logits.to(values.state.dtype), draws.labels_B)


def _transform_logits(values: StepValues) -> tuple[Tensor, TransformDraws]:
    """The transformation head's output for a second, transformed view of some patches, and the truth."""
    state, part = values.state, values.part
    draws = part.transforms.to(state.device)
    heard_BVFT = values.patches_BPFT[:, to_device(part.view_columns_V, state.device)]
    views_BVFT = apply_transforms(heard_BVFT, draws, state.model.noise_M)
    latents = state.model.encode(views_BVFT.flatten(0, 1), recompute=values.plan.recompute_encoder)
    return state.model.heads.transform(clip_latents(latents, views_BVFT.shape[1])), draws


_KNOBS = {spec.name: spec for spec in own_knobs()}
OWN_TERMS = (
    LossTerm(name="reconstruction", value=_reconstruction, weight=None),
    LossTerm(
        name="commitment",
        value=_commitment,
        weight=_KNOBS["commitment_cost"],
        scale=lambda phase: phase.commitment_scale,
        measured_at_zero=True,
    ),
    LossTerm(name="texture", value=_texture, weight=_KNOBS["texture_weight"]),
    LossTerm(name="id", value=_id, weight=_KNOBS["id_weight"], phases=(2, 3)),
    LossTerm(name="transform", value=_transform, weight=_KNOBS["transform_weight"], phases=(2, 3)),
)
"""The terms of every trial; `EpochReport` has a field for each, and their heads are the model's own."""


def loss_terms() -> tuple[LossTerm, ...]:
    """Every term, in the order of `StepLosses.terms_L` after the total."""
    return (*OWN_TERMS, *(LOSS_TERMS.get(name) for name in LOSS_TERMS.names()))


def loss_names() -> tuple[str, ...]:
    """Names of a step's losses, in the order used everywhere; those switched off are 0."""
    return ("total", *(term.name for term in loss_terms()))


def shown_terms() -> tuple[str, ...]:
    """Names of the registered terms that reports show."""
    return tuple(term.name for term in loss_terms() if term.shown and term not in OWN_TERMS)


def register_loss_term(term: LossTerm) -> None:
    """Registers a term and the knob of its weight.

    Raises
    ------
    ConfigError
        If the name is taken, or the term has no weight of its own.
    """
    if term.weight is None or not term.weight.extra:
        raise ConfigError(f"loss term {term.name} needs a weight of its own; make one with weight_knob")
    LOSS_TERMS.register(term.name, term)
