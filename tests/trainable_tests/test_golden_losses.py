"""Three steps of training give the losses that they gave before geometry, architectures and loss terms had registries.

`golden/three_steps.json` was recorded at commit b50d2df, when all of these were written into the step itself::

    python -m tests.trainable_tests.test_golden_losses

In float64, where other libraries' order of summation changes about the fifteenth digit.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.noise_clips import IDS, noise_train_clips
from trainable.config import TrialConfig
from trainable.execution_plan import ExecutionPlan
from trainable.training.phases import Phase, PhaseState
from trainable.training.trainer import Trainer

GOLDEN = Path(__file__).parent / "golden/three_steps.json"
BASE = {"width": 0.25, "latent_dim": 8, "head_hidden": 8, "batch_size": 5, "n_patches": 3, "num_embeddings": 24}
CASES: dict[str, tuple[dict[str, Any], ExecutionPlan]] = {
    "defaults": ({}, ExecutionPlan(micro_batch_clips=5)),
    "every term, split": (
        {"texture_weight": 5.0, "id_weight": 0.3, "transform_weight": 0.7, "commitment_cost": 0.5, "seed": 3},
        ExecutionPlan(micro_batch_clips=2, recompute_encoder=True, recompute_decoder=True, quantizer_chunk_rows=100),
    ),
    "cosine, rotation, projected": (
        {"distance": "cosine", "code_gradient": "rotation", "codebook_dim": 4, "id_weight": 0.0, "kmeans_start": False},
        ExecutionPlan(micro_batch_clips=3),
    ),
}


def three_steps(name: str, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """Losses of a step of each phase, and sums over what these steps changed and over the codes they lead to."""
    flat, plan = CASES[name]
    config = TrialConfig.from_flat(BASE | flat)
    trainer = Trainer(config, noise_train_clips(), IDS, plan=plan, device=torch.device("cpu"), dtype=dtype)
    if config.quantizer.kmeans_start:
        trainer._start_codebook()
    phases: tuple[Phase, ...] = (1, 2, 3)
    losses = [
        trainer._step(batch, PhaseState(phase, 0.5)).terms_L.tolist()
        for (batch, _), phase in zip(trainer._batches(), phases, strict=True)
    ]
    _, encoded = trainer.encode(trainer.train, with_errors=True)
    values = trainer.state.model.state_dict().values()
    return {
        "losses": losses,
        "weights": float(sum(value.double().abs().sum() for value in values)),
        "codes": int((encoded.codes_BPHWM[..., 0] * torch.arange(1, 65).view(8, 8)).sum()),
        "errors": float(encoded.reconstruction_error_B.double().sum() + encoded.quantization_error_B.double().sum()),
    }


@pytest.mark.parametrize("name", CASES)
def test_three_steps_give_the_losses_that_they_gave(name: str) -> None:
    golden, now = json.loads(GOLDEN.read_text())[name], three_steps(name)
    for mine, its in zip(now["losses"], golden["losses"], strict=True):
        assert mine == pytest.approx(its, rel=1e-12, abs=1e-15)
    assert now["weights"] == pytest.approx(golden["weights"], rel=1e-12)
    assert now["codes"] == golden["codes"]
    assert now["errors"] == pytest.approx(golden["errors"], rel=1e-12)


if __name__ == "__main__":
    torch.set_num_threads(1)
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps({name: three_steps(name) for name in CASES}, indent=1) + "\n")
