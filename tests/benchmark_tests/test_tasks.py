"""Tasks beside reconstruction that only a benchmark has."""

import pytest
import torch

from benchmarks import tasks
from benchmarks.ablations import AUGMENTED, VARIANTS
from benchmarks.tasks import Context, cells
from tests.noise_clips import IDS, noise_train_clips
from trainable.config import TrialConfig
from trainable.execution_plan import ExecutionPlan
from trainable.registry import LOSS_TERMS
from trainable.training.trainer import Trainer

SMALL = {"width": 0.25, "latent_dim": 8, "head_hidden": 8, "num_embeddings": 16, "batch_size": 7, "n_patches": 2}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LOSS_TERMS, "_parts", {})
    tasks.register()


def test_variants_are_configurations() -> None:
    assert set(AUGMENTED) <= set(VARIANTS)
    for changes in VARIANTS.values():
        TrialConfig.from_flat(changes)


@pytest.mark.parametrize("task", ["context", "resolutions"])
def test_a_task_is_learned(task: str) -> None:
    config = TrialConfig.from_flat({**SMALL, f"{task}_weight": 1.0, "epochs": 2})
    plan = ExecutionPlan(micro_batch_clips=7)
    trainer = Trainer(config, noise_train_clips(), IDS, plan=plan, device=torch.device("cpu"))
    first, second = (trainer.train_epoch().terms[task] for _ in range(2))
    assert first > second > 0


def test_a_cell_is_predicted_from_other_columns_alone() -> None:
    head = Context(TrialConfig.from_flat({"latent_dim": 4, "columns": 16, "head_hidden": 8}), 2)
    grid_XDHW = torch.randn(1, 4, 8, 16, requires_grad=True)
    head(grid_XDHW)[0, :, 3, 7].sum().backward()
    assert grid_XDHW.grad is not None
    heard_HW = grid_XDHW.grad[0].abs().sum(dim=0) > 0
    assert heard_HW.nonzero().tolist() == [[row, column] for row in (2, 3, 4) for column in (5, 6, 8, 9)]


def test_values_of_a_cell() -> None:
    patch_XFT = torch.arange(64.0 * 64).reshape(1, 64, 64)
    of_a_cell = cells(patch_XFT, rows=16, columns=32)[0, :, 1, 2]
    assert of_a_cell.tolist() == [mel * 64.0 + frame for mel in range(4, 8) for frame in (4, 5)]
