"""What a training step changes: model, optimizer, gradient scaler."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainable.config import TrialConfig
from trainable.execution_plan import ExecutionPlan
from trainable.finite import FiniteTensor
from trainable.model.geometry import Geometry
from trainable.model.vqvae import VQVAE, make_model
from trainable.training.phases import peak_learning_rate
from trainable.typed import Count


@dataclass
class TrainState:
    """Everything a step reads and writes; nothing else of a trial changes while it trains."""

    config: TrialConfig
    model: VQVAE
    optimizer: torch.optim.AdamW
    scaler: torch.amp.GradScaler
    """Enabled only under a float16 plan; otherwise it passes everything through."""

    @property
    def geometry(self) -> Geometry:
        return self.model.geometry

    @property
    def device(self) -> torch.device:
        return self.model.noise_M.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.noise_M.dtype


def make_state(config: TrialConfig, n_ids: int, device: torch.device, dtype: torch.dtype = torch.float32) -> TrainState:
    """A fresh state whose weights depend on the configuration's seed alone, not on the device."""
    model = make_model(config, n_ids).to(device=device, dtype=dtype)
    if device.type == "cpu":
        # oneDNN's depthwise convolutions want channels last: 1.3x on one core for a patch's forward and backward.
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    # Fused: one kernel without temporaries, so that running out of memory cannot leave half of a step applied.
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=peak_learning_rate(config), weight_decay=config.optim.weight_decay, fused=True
    )
    return TrainState(config, model, optimizer, torch.amp.GradScaler(device.type, enabled=False))


def make_scaler(plan: ExecutionPlan, device: torch.device) -> torch.amp.GradScaler:
    """A new gradient scaler, enabled under float16 on a GPU and where such a plan is traced."""
    return torch.amp.GradScaler(
        device.type, enabled=plan.precision == "amp_float16" and device.type in ("cuda", "meta")
    )


def drop_half_made_moments(optimizer: torch.optim.Optimizer) -> None:
    """Removes what a first step that ran out of memory left incomplete; complete moments stay."""
    for parameter in list(optimizer.state):
        if "exp_avg_sq" not in optimizer.state[parameter]:
            del optimizer.state[parameter]


@dataclass(frozen=True, kw_only=True)
class SavedOptimizer:
    """What ``state_dict`` of an optimizer gives, as it is read back."""

    state: dict[int, dict[str, FiniteTensor]]
    """By parameter: its moments and how often it was updated."""
    param_groups: tuple[dict[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class SavedTraining:
    """What a checkpoint holds of a training (`trainable.training.trainer.Trainer.state_dict`), as it is read back."""

    config: dict[str, Any]
    epoch: Count
    plan: dict[str, Any]
    model: dict[str, FiniteTensor]
    optimizer: SavedOptimizer
    scaler: dict[str, Any]


def load_weights(model: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Loads a model's ``state_dict``. Raises RuntimeError or ValueError if names, shapes or kinds of numbers differ."""
    for name, own in model.state_dict().items():
        if name in saved and own.is_floating_point() != saved[name].is_floating_point():
            raise ValueError(f"{name} is of {saved[name].dtype}, the model's of {own.dtype}")
    model.load_state_dict(saved)


def load_moments(optimizer: torch.optim.AdamW, saved: SavedOptimizer) -> None:
    """Loads an optimizer's moments; what the configuration says, such as the weight decay, stays as it is.

    Raises
    ------
    ValueError
        If the moments are not those of its parameters.
    """
    groups = optimizer.state_dict()["param_groups"]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, moments in saved.state.items():
        if not 0 <= index < len(parameters) or not _are_moments(moments, parameters[index].shape):
            raise ValueError(f"the optimizer's moments of parameter {index} are not those of one of the model's")
    optimizer.load_state_dict({"state": saved.state, "param_groups": groups})


def _are_moments(moments: Mapping[str, Tensor], shape: torch.Size) -> bool:
    """Whether AdamW could have such moments of a parameter of that shape."""
    if moments.keys() != {"step", "exp_avg", "exp_avg_sq"}:
        return False
    step, mean, square = moments["step"], moments["exp_avg"], moments["exp_avg_sq"]
    same = step.shape == () and mean.shape == square.shape == shape
    real = mean.is_floating_point() and square.is_floating_point()
    return same and real and bool(step >= 0) and bool((square >= 0).all())
