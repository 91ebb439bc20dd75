"""How a configuration is executed: what changes memory and speed, never the result.

Every plan whose `precision` is ``float32`` is exact: it gives the same gradients and the same codebook update
as the unsplit step (up to the rounding of sums). The planner (`trainable.memory.planner`) chooses among plans;
`trainable.training.step` obeys one.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from trainable.errors import ConfigError
from trainable.typed import CountFromOne, build

Precision = Literal["float32", "amp_bfloat16", "amp_float16"]
Placement = Literal["device", "host"]


@dataclass(frozen=True, kw_only=True)
class ExecutionPlan:
    """One way to execute an optimizer step of `batch_size` clips."""

    micro_batch_clips: CountFromOne
    """Whole clips a forward/backward pass holds at once, 1 … batch_size; the rest is accumulated."""
    recompute_encoder: bool = False
    """Gradient checkpointing of the encoder in segments: activations are recomputed in the backward pass."""
    recompute_decoder: bool = False
    """The same for the decoder."""
    quantizer_chunk_rows: CountFromOne = 16_384
    """Rows of latents whose distances to all codes exist at once: peak extra memory is rows × K × 4 bytes."""
    data_placement: Placement = "device"
    """Where the packed features live; from the host, only a micro-batch's patches are copied to the device."""
    precision: Precision = "float32"
    """Mixed precision is the one inexact choice, allowed only where the configuration says `allow_amp`."""

    def __post_init__(self) -> None:
        if self.micro_batch_clips < 1:
            raise ConfigError(f"micro_batch_clips is {self.micro_batch_clips}; it must be at least 1")
        if self.quantizer_chunk_rows < 1:
            raise ConfigError(f"quantizer_chunk_rows is {self.quantizer_chunk_rows}; it must be at least 1")

    @property
    def uses_amp(self) -> bool:
        return self.precision != "float32"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, the inverse of `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ExecutionPlan":
        """The plan that `to_dict` wrote. Raises ConfigError for a field that is unknown, missing or of another type."""
        try:
            return build(cls, values)
        except ValueError as error:
            raise ConfigError(
                f"not an execution plan: {error}; its fields are {', '.join(cls.__annotations__)}"
            ) from None

    def describe(self) -> str:
        """One short phrase for tables: ``4 clips, recompute enc+dec, chunk 16384, device, float32``."""
        parts = [f"{self.micro_batch_clips} clips"]
        recomputed = [name for name, on in (("enc", self.recompute_encoder), ("dec", self.recompute_decoder)) if on]
        if recomputed:
            parts.append("recompute " + "+".join(recomputed))
        parts += [f"chunk {self.quantizer_chunk_rows}", self.data_placement, self.precision]
        return ", ".join(parts)


@dataclass(frozen=True)
class MemoryPlan:
    """The planner's answer for a configuration: a plan that fits, or the smallest one and why it does not."""

    plan: ExecutionPlan
    """The chosen plan; the smallest one if none fits."""
    predicted_bytes: int
    """Peak of everything that the process takes on the device, with margin; 0 if nothing was predicted."""
    fits: bool = True
    reason: str = ""
    """Why no plan fits, in one line; empty where one does."""
    allocated_bytes: int = 0
    """The part of the predicted bytes in PyTorch's allocator, without margin."""
    breakdown: Mapping[str, int] = field(default_factory=dict, compare=False)
    """Predicted bytes by part."""
    peak_pass: str = ""
    """The pass of the training step in which the peak occurs."""

    @classmethod
    def whole_batch(cls, batch_clips: int) -> "MemoryPlan":
        """The plan without a budget: the whole batch at once, nothing recomputed, nothing predicted."""
        return cls(ExecutionPlan(micro_batch_clips=batch_clips), 0)


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """The parts of a plan that flags fix; `None` leaves the choice to the planner."""

    micro_batch_clips: int | None = None
    """Fixed by ``--gradient_accumulation_steps`` (`micro_batch_of`)."""
    recompute: bool | None = None
    """Fixed by ``--use_gradient_checkpointing`` (encoder and decoder both) or ``--no-use-gradient-checkpointing``."""
    amp: bool | None = None
    """Fixed by ``--use_amp`` or ``--no-use-amp``; `None` uses AMP only where the configuration allows it and it is
    faster."""
    memory_saver: bool = False
    """``--memory_saver``: mixed precision and both recomputations, with the whole batch at once if that fits."""
    smallest: bool = False
    """``--smallest_plan``: the smallest plan instead of the fastest that fits."""

    def __post_init__(self) -> None:
        for value, flag, what in (
            (self.amp, "--no-use-amp", "mixed precision"),
            (self.recompute, "--no-use-gradient-checkpointing", "gradient checkpointing"),
        ):
            if self.memory_saver and value is False:
                raise ConfigError(
                    f"--memory-saver switches {what} on and {flag} switches it off; give only one of them"
                )

    @property
    def fixed_recompute(self) -> bool | None:
        """Whether encoder and decoder are recomputed; `None` leaves each to the planner."""
        return True if self.memory_saver else self.recompute

    @property
    def fixed_amp(self) -> bool | None:
        """Whether mixed precision is used; `None` leaves it to configuration and planner."""
        return True if self.memory_saver else self.amp

    @classmethod
    def of_options(cls, options: Mapping[str, Any], *, micro_batch_clips: int | None) -> "PlanRequest":
        """What the flags of a run fixed, from the options in its manifest (`today`)."""
        return cls(
            micro_batch_clips=micro_batch_clips,
            recompute=options.get("use_gradient_checkpointing"),
            amp=options.get("use_amp"),
            memory_saver=bool(options.get("memory_saver")),
            smallest=bool(options.get("smallest_plan")),
        )


def today(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a run's manifest with the names and types of today.

    Until there was ``--smallest-plan``, ``--memory-saver`` meant the smallest plan; a run goes on with what it meant.
    Until a warm start took several runs, it named one or none.
    """
    known = dict(options)
    if "memory_saver" in known and "smallest_plan" not in known:
        known |= {"smallest_plan": known["memory_saver"], "memory_saver": False}
    if "warm_start" in known and not isinstance(known["warm_start"], list | tuple):
        known["warm_start"] = [] if known["warm_start"] is None else [known["warm_start"]]
    return known


def micro_batch_of(batch_size: int, steps: int) -> int:
    """Clips in each of `steps` micro-batches. Raises ConfigError if they would not be equal."""
    if steps < 1 or batch_size % steps:
        divisors = ", ".join(str(each) for each in range(1, batch_size + 1) if batch_size % each == 0)
        raise ConfigError(
            f"--gradient-accumulation-steps is {steps}, which does not divide the batch_size of {batch_size} clips; "
            f"it must be one of {divisors}"
        )
    return batch_size // steps
