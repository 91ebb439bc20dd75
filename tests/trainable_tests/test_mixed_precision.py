"""Mixed precision on real CPU tensors: every form of the quantizer trains and scores, and the trace sees its types."""

from itertools import product

import pytest
import torch

from tests.noise_clips import IDS, noise_train_clips
from trainable import train
from trainable.commandline import run
from trainable.config import TrialConfig
from trainable.execution_plan import ExecutionPlan
from trainable.model.vqvae import make_model
from trainable.training.step import mixed_precision
from trainable.training.trainer import Trainer

FORMS = list(product((0, 4), ("euclidean", "cosine"), ("straight_through", "rotation")))
SMALL = {"width": 0.25, "latent_dim": 8, "head_hidden": 8, "batch_size": 8, "n_patches": 2, "num_embeddings": 8}


def config_of(codebook_dim: int, distance: str, code_gradient: str) -> TrialConfig:
    form = {"codebook_dim": codebook_dim, "distance": distance, "code_gradient": code_gradient}
    return TrialConfig.from_flat({**SMALL, **form, "epochs": 3, "vq_only_share": 0.34, "frozen_share": 0.34})


@pytest.mark.parametrize(("codebook_dim", "distance", "code_gradient"), FORMS)
@pytest.mark.parametrize("recompute", [False, True])
def test_every_form_trains_and_scores(codebook_dim: int, distance: str, code_gradient: str, recompute: bool) -> None:
    plan = ExecutionPlan(
        micro_batch_clips=4, recompute_encoder=recompute, recompute_decoder=recompute, precision="amp_bfloat16"
    )
    clips = noise_train_clips()
    config = config_of(codebook_dim, distance, code_gradient)
    trainer = Trainer(config, clips, IDS, plan=plan, device=torch.device("cpu"))
    losses = [trainer.train_epoch() for _ in range(3)]
    assert [loss.phase.phase for loss in losses] == [1, 2, 3]
    codes_BPHWM = trainer.encode(clips, with_errors=True)[1].codes_BPHWM
    assert codes_BPHWM.shape == (len(clips), 2, 8, 8, 1)
    assert {value.dtype for value in trainer.state.model.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize(("codebook_dim", "distance", "code_gradient"), FORMS)
def test_the_trace_sees_the_types_of_real_tensors(codebook_dim: int, distance: str, code_gradient: str) -> None:
    plan = ExecutionPlan(micro_batch_clips=1, precision="amp_bfloat16")
    config = config_of(codebook_dim, distance, code_gradient)

    def types(device: torch.device) -> list[torch.dtype]:
        model = make_model(config, 2).to(device)
        with mixed_precision(plan, device):
            latents_XDHW = model.encoder(torch.zeros(2, 64, 64, device=device))
        rows_ND = model.codebook.rows(latents_XDHW)
        vectors_ND = model.codebook.quantize(rows_ND, chunk_rows=64).vectors_ND
        with mixed_precision(plan, device):
            grid_XDHW = model.codebook.grid(vectors_ND)
            decoded_XFT = model.decoder(grid_XDHW)
        return [tensor.dtype for tensor in (latents_XDHW, rows_ND, vectors_ND, grid_XDHW, decoded_XFT)]

    on_meta = types(torch.device("meta"))
    assert on_meta == types(torch.device("cpu"))
    assert on_meta[:3] == [torch.bfloat16, torch.float32, torch.float32]


@pytest.mark.slow
def test_the_command_with_a_projected_codebook(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--width", "0.25", "--n-patches", "2", "--epochs", "1", "--density", "counts", "--device", "cpu"]
    assert run(train.main, ["--use-amp", "--codebook-dim", "4", *small]) == 0
    assert "amp_bfloat16" in capsys.readouterr().out
