"""The actor of a slot, driven by hand: endings, and what it must give back before its next trial. No Ray runs here."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.search_tests.synthetic import SyntheticTrial
from trainable.ray_trainable import ENDED, REASON, REPORT, RayTrial, trial_config
from trainable.record import TrialStart

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(60)]


def config_of(folder: Path, number: int) -> dict[str, Any]:
    start = TrialStart(
        number=number,
        params={},
        config={"learning_rate": 1e-3, "commitment_cost": 0.25, "latent_dim": 32, "num_embeddings": 128},
        plan=None,
        predicted_bytes=0,
    )
    return trial_config(start, checkpoints=str(folder / str(number)), max_epochs=3, label=f"trial {number}")


def actor(folder: Path, factory: Any = SyntheticTrial) -> RayTrial:
    """An actor whose first trial is number 0."""

    class Here(RayTrial):
        def setup(self, config: dict[str, Any], **_: Any) -> None:
            super().setup(config, factory=factory)

    return Here(config_of(folder, 0))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError("no more"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
def test_running_out_of_memory_is_an_ending(error: Exception, tmp_path: Path) -> None:
    class Full(SyntheticTrial):
        def step(self) -> Any:
            raise error

    result = actor(tmp_path, Full).step()
    assert result[ENDED] == "out_of_memory"
    assert str(error) in result[REASON]


def test_another_error_is_rays_to_retry(tmp_path: Path) -> None:
    class Broken(SyntheticTrial):
        def step(self) -> Any:
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        actor(tmp_path, Broken).step()


def test_an_epoch_is_a_result(tmp_path: Path) -> None:
    assert REPORT in actor(tmp_path).step()
