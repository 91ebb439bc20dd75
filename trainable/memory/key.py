"""The part of a configuration that its memory depends on, so that one prediction holds for others. No torch."""

from collections.abc import Hashable
from dataclasses import dataclass

from trainable.config import PhaseConfig, TrialConfig, knobs
from trainable.training.phases import Phase, phase_of

_NOTHING = frozenset(
    {"seed", "stride", "epochs", "vq_only_share", "frozen_share"}
    | {"learning_rate", "learning_rate_batch", "weight_decay", "lr_warmup_epochs"}
    | {"commitment_cost", "commitment_warmup_epochs", "commitment_warmup_start", "ema_decay", "dead_threshold"}
    | {"density", "density_per_id", "aggregation", "top_k_share", "radius_power"}
)
"""Knobs that change no tensor's size. A knob that is not named here counts, so that a new one cannot be forgotten."""
_SWITCHES = frozenset({"gradient_clip", "texture_weight", "id_weight", "transform_weight"})
"""For these, and for the weights of registered loss terms, it only matters whether they are above zero."""
_SIZES = ("num_embeddings", "latent_dim", "n_patches", "head_hidden")
"""Knobs that, when larger, make every storage of every plan at least as large, all else being equal."""


@dataclass(frozen=True)
class MemoryKey:
    """Configurations with equal keys need the same memory under every plan."""

    sizes: tuple[int, ...]
    """A configuration whose sizes are all at least another's needs at least as much memory, if `rest` is equal."""
    rest: Hashable


def memory_key(config: TrialConfig) -> MemoryKey:
    """The key of a configuration."""
    flat = config.flat()
    sizes = tuple(int(flat.pop(name)) for name in _SIZES)
    counted = {name: value for name, value in flat.items() if name not in _NOTHING}
    switches = _SWITCHES | {spec.name for spec in knobs() if spec.extra}
    rest = tuple((name, value > 0 if name in switches else value) for name, value in counted.items())
    projects = config.quantizer.projects(config.model.latent_dim)
    return MemoryKey(sizes, (rest, projects, phases_of(config.phase)))


def phases_of(phase: PhaseConfig) -> tuple[Phase, ...]:
    """Phases that occur in a training."""
    turns = {0, phase.epochs - 1, round(phase.vq_only_share * phase.epochs)}
    return tuple(sorted({phase_of(phase, epoch) for epoch in turns if epoch < phase.epochs}))
