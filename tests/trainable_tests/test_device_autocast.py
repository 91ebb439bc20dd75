"""Casts made on meta tensors are those that PyTorch makes on CUDA, layer by layer."""

from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from trainable.config import TrialConfig
from trainable.execution_plan import ExecutionPlan
from trainable.model.vqvae import make_model
from trainable.training.step import mixed_precision


def dtypes_of_layers(model: nn.Module, device: torch.device, plan: ExecutionPlan) -> dict[str, Any]:
    """Type of what every layer of encoder, decoder and heads gives under a plan."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        if not list(module.children()):
            module.register_forward_hook(lambda _, __, out, name=name: found.__setitem__(name, out.dtype))
    with mixed_precision(plan, device):
        latents = model.encoder(torch.empty(2, 64, 64, device=device))  # type: ignore[operator]
        found["decoded"] = model.decoder(latents).dtype  # type: ignore[operator]
        found["heads"] = model.heads.machine_id(latents.mean(dim=(2, 3))).dtype  # type: ignore[operator, union-attr]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["amp_bfloat16", "amp_float16"])
def test_casts_agree_with_pytorchs_on_fake_cuda(precision: str) -> None:
    config = TrialConfig.from_flat({"width": 0.25, "latent_dim": 8})
    plan = ExecutionPlan(micro_batch_clips=1, precision=precision)  # type: ignore[arg-type]
    on_meta = dtypes_of_layers(make_model(config, 2).to("meta"), torch.device("meta"), plan)
    fake = make_model(config, 2).to("meta")
    with FakeTensorMode(), torch.no_grad():
        # The device of fake tensors needs no GPU as long as nothing runs backward.
        for module in fake.modules():
            for name, parameter in module.named_parameters(recurse=False):
                setattr(module, name, nn.Parameter(torch.empty(parameter.shape, device="cuda"), requires_grad=False))
        on_cuda = dtypes_of_layers(fake, torch.device("cuda"), plan)
    assert on_meta == on_cuda
    assert {torch.float32, plan_dtype(precision)} <= set(on_meta.values())


def plan_dtype(precision: str) -> torch.dtype:
    return torch.bfloat16 if precision == "amp_bfloat16" else torch.float16
