"""What a training keeps alive does not grow from epoch to epoch; and what growth looks like where there is some.

N rows of latents, K codes, D width.
"""

import gc
import weakref
from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from tests.noise_clips import IDS, noise_train_clips
from trainable.config import TrialConfig
from trainable.execution_plan import ExecutionPlan
from trainable.memory.tracker import MemoryTracker
from trainable.model.codebook import Codebook
from trainable.training.phases import phase_at
from trainable.training.trainer import Trainer

SMALL = {"width": 0.25, "latent_dim": 8, "head_hidden": 8, "n_patches": 2, "batch_size": 5, "num_embeddings": 16}
PHASE_EPOCHS = 10
EPOCHS = 3 * PHASE_EPOCHS
CPU = torch.device("cpu")
PHASES = {"epochs": EPOCHS, "vq_only_share": 1 / 3, "frozen_share": 1 / 3}
PLANS = {
    "whole": ExecutionPlan(micro_batch_clips=5),
    "memory saver": ExecutionPlan(
        micro_batch_clips=5, recompute_encoder=True, recompute_decoder=True, precision="amp_bfloat16"
    ),
    "smallest": ExecutionPlan(
        micro_batch_clips=1, recompute_encoder=True, recompute_decoder=True, quantizer_chunk_rows=256
    ),
}


def alive(tracker: MemoryTracker) -> tuple[int, int]:
    """Number and bytes of the storages that were made under a tracker and still live."""
    living: set[int] = set()
    for index in tracker.order:
        if index >= 0:
            living.add(index)
        else:
            living.remove(~index)
    return len(living), sum(tracker.allocations[index].size_bytes for index in living)


def alive_by_epoch(config: TrialConfig, plan: ExecutionPlan, epochs: int) -> Iterator[tuple[int, tuple[int, int]]]:
    """The phase of each epoch, and what lives after it."""
    trainer = Trainer(config, noise_train_clips(), IDS, plan=plan, device=CPU)
    with MemoryTracker("cpu") as tracker:
        for epoch in range(epochs):
            trainer.train_epoch()
            yield phase_at(config, epoch).phase, alive(tracker)
        tracker.close()


@pytest.mark.slow
@pytest.mark.parametrize("plan", PLANS)
def test_as_much_lives_after_the_tenth_epoch_of_a_phase_as_after_its_second(plan: str) -> None:
    seen: dict[int, list[tuple[int, int]]] = {}
    for phase, living in alive_by_epoch(TrialConfig.from_flat(SMALL | PHASES), PLANS[plan], EPOCHS):
        seen.setdefault(phase, []).append(living)
    assert {phase: len(each) for phase, each in seen.items()} == dict.fromkeys((1, 2, 3), PHASE_EPOCHS)
    for phase, after in seen.items():
        assert after[1] == after[9], f"phase {phase}: {after}"
        assert after[1][0] > 0


def test_the_last_reference_frees_a_training() -> None:
    """A released trial waits for no garbage collection, which takes the longer the more a process has imported."""
    trainer = Trainer(
        TrialConfig.from_flat(SMALL | {"epochs": 1}), noise_train_clips(), IDS, plan=PLANS["memory saver"], device=CPU
    )
    trainer.train_epoch()
    state = weakref.ref(trainer.state)
    gc.disable()
    try:
        del trainer
        assert state() is None
    finally:
        gc.enable()


def test_a_buffer_that_is_updated_with_its_graph_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe's fault, put into ours: an average of latents that autograd records."""
    rows, average = Codebook.rows, [torch.zeros(())]

    def averaging(self: Codebook, latents_XDHW: Tensor) -> Tensor:
        rows_ND = rows(self, latents_XDHW)
        average[0] = 0.99 * average[0] + 0.01 * (rows_ND * rows_ND).sum()
        return rows_ND

    monkeypatch.setattr(Codebook, "rows", averaging)
    config = TrialConfig.from_flat(SMALL | {"kmeans_start": False})
    counts = [living[0] for _, living in alive_by_epoch(config, PLANS["whole"], 4)]
    steps = -(-len(noise_train_clips()) // 5)
    assert all(after - before >= steps for before, after in pairwise(counts)), counts


@pytest.mark.parametrize(("graph", "kept"), [(True, 1), (False, 0)], ids=["with its graph", "without"])
def test_the_recipes_buffer_keeps_a_matrix_of_every_step(graph: bool, kept: int) -> None:
    """N × K × 4 bytes a step, which are 8 MiB for 16 clips of 16 patches, 64 rows a patch, and 128 codes."""
    n_rows, n_codes, width = 16 * 16 * 64, 128, 4
    size_bytes = n_rows * n_codes * 4
    assert size_bytes == 8 * 2**20
    weight_DD = torch.nn.Parameter(torch.eye(width))
    sums_KD, living = torch.zeros(n_codes, width), []
    with MemoryTracker("cpu") as tracker:
        for _ in range(4):
            rows_ND = torch.ones(n_rows, width) @ weight_DD
            codes_N = torch.zeros(n_rows, dtype=torch.long)
            one_hot_NK = torch.zeros(n_rows, n_codes).scatter_(1, codes_N[:, None], 1.0)
            with torch.set_grad_enabled(graph):
                sums_KD = 0.99 * sums_KD + 0.01 * (one_hot_NK.T @ rows_ND)
            rows_ND.square().mean().backward()
            del rows_ND, one_hot_NK, codes_N
            living.append(alive(tracker)[1])
        tracker.close()
    assert {after - before for before, after in pairwise(living[1:])} == {kept * size_bytes}
