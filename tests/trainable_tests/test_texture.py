"""The texture loss: what it asks of a code, that it is learned, and that a term of weight 0 costs nothing."""

import pytest
import torch
from torch import Tensor

from tests.noise_clips import IDS, noise_train_clips
from trainable.config import TrialConfig
from trainable.execution_plan import ExecutionPlan
from trainable.model.encoder import Encoder
from trainable.model.geometry import Geometry
from trainable.model.texture import cell_deviations
from trainable.training.trainer import EpochLosses, Trainer

TINY = {"width": 0.25, "latent_dim": 8, "head_hidden": 8, "batch_size": 8, "n_patches": 2, "num_embeddings": 32}
NO_HEADS = {"id_weight": 0.0, "transform_weight": 0.0}


def trained(epochs: int, **flat: object) -> EpochLosses:
    config = TrialConfig.from_flat({**TINY, "epochs": 10, "vq_only_share": 0.0, **flat})
    plan = ExecutionPlan(micro_batch_clips=8)
    trainer = Trainer(config, noise_train_clips(), IDS, plan=plan, device=torch.device("cpu"))
    return [trainer.train_epoch() for _ in range(epochs)][-1]


def test_a_cell_is_eight_mels_by_eight_frames() -> None:
    patch_FT = torch.zeros(64, 64)
    patch_FT[8:16, 16:24] = torch.tensor([-1.0, 1.0]).repeat(4)
    deviations_HW = cell_deviations(patch_FT[None], Geometry())[0]
    assert deviations_HW.shape == (8, 8)
    assert deviations_HW[1, 2] == pytest.approx((64 / 63) ** 0.5)
    assert float(deviations_HW.sum()) == pytest.approx(float(deviations_HW[1, 2]))


def test_level_is_no_texture() -> None:
    patches_XFT = torch.randn(3, 64, 64, dtype=torch.float64)
    assert torch.allclose(cell_deviations(patches_XFT, Geometry()), cell_deviations(patches_XFT + 5.0, Geometry()))


def test_codes_learn_to_tell_it() -> None:
    first, later = (trained(epochs, texture_weight=5.0, learning_rate=0.01, **NO_HEADS) for epochs in (1, 8))
    assert 0 < later.terms["texture"] < 0.5 * first.terms["texture"]


def test_terms_of_weight_zero_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    forward = Encoder.forward

    def counted(self: Encoder, patches_XFT: Tensor, *, recompute: bool = False) -> Tensor:
        passes.append(len(patches_XFT))
        return forward(self, patches_XFT, recompute=recompute)

    monkeypatch.setattr(Encoder, "forward", counted)
    with_heads = trained(1, kmeans_start=False)
    assert with_heads.terms["id"] > 0
    assert with_heads.terms["transform"] > 0
    assert with_heads.terms["texture"] == 0
    twice, passes[:] = len(passes), []
    without = trained(1, kmeans_start=False, **NO_HEADS)
    assert (without.terms["id"], without.terms["transform"]) == (0, 0)
    assert 2 * len(passes) == twice, "the transformed view should not be encoded"
