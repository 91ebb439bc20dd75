"""Six epochs at once, and three epochs, a new process and three more, end in the same bits."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from tests.noise_clips import IDS, noise_train_clips
from trainable.config import TrialConfig
from trainable.errors import CheckpointError
from trainable.execution_plan import ExecutionPlan
from trainable.training.checkpoint import load_newest, save_checkpoint
from trainable.training.trainer import Trainer

CONFIG = TrialConfig.from_flat(
    {"width": 0.25, "latent_dim": 8, "head_hidden": 8, "batch_size": 5, "n_patches": 2, "num_embeddings": 24}
    | {"epochs": 6, "vq_only_share": 0.34, "frozen_share": 0.17, "commitment_warmup_epochs": 2, "seed": 5}
)
PLAN = ExecutionPlan(micro_batch_clips=3)

CONTINUE = """
import sys
from pathlib import Path
from tests.trainable_tests.test_resume import new_trainer
from trainable.training.checkpoint import load_newest, save_checkpoint

folder = Path(sys.argv[1])
trainer = new_trainer()
epoch, state = load_newest(folder)
trainer.load_state_dict(state)
for _ in range(3):
    trainer.train_epoch()
save_checkpoint(folder, trainer.epoch, trainer.state_dict())
"""


def new_trainer(config: TrialConfig = CONFIG) -> Trainer:
    return Trainer(config, noise_train_clips(), IDS, plan=PLAN, device=torch.device("cpu"))


def assert_same(one: object, other: object, where: str = "") -> None:
    """Bit-identical nested states."""
    if isinstance(one, torch.Tensor):
        assert isinstance(other, torch.Tensor)
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert isinstance(other, dict)
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where  # type: ignore[arg-type]
        for index, (left, right) in enumerate(zip(one, other, strict=True)):  # type: ignore[call-overload]
            assert_same(left, right, f"{where}/{index}")
    else:
        assert one == other, where


@pytest.mark.slow
def test_resumed_in_a_new_process_ends_in_the_same_bits(tmp_path: Path) -> None:
    undisturbed = new_trainer()
    for _ in range(6):
        undisturbed.train_epoch()
    first_half = new_trainer()
    for _ in range(3):
        first_half.train_epoch()
    save_checkpoint(tmp_path, first_half.epoch, first_half.state_dict())
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CONTINUE), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    epoch, resumed = load_newest(tmp_path)
    assert epoch == 6
    assert_same(undisturbed.state_dict(), resumed)


def test_a_checkpoint_of_another_configuration_is_refused_by_name() -> None:
    other = new_trainer(CONFIG.replace(learning_rate=0.01))
    with pytest.raises(CheckpointError, match="differs in learning_rate"):
        new_trainer().load_state_dict(other.state_dict())
