"""What a training step changes: model, optimizer, gradient scaler."""

from dataclasses import dataclass

import torch

from trainable.config import TrialConfig
from trainable.execution_plan import ExecutionPlan
from trainable.model.geometry import Geometry
from trainable.model.vqvae import VQVAE, make_model
from trainable.training.phases import peak_learning_rate


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
