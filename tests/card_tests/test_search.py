"""A search of `ad_gpu` under a budget keeps to it by the driver's count, on a card that may compute nothing."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from spaces.loader import load_space
from tests.card_tests.conftest import Card, Start
from trainable.execution_plan import ExecutionPlan
from trainable.record import RunFolder, TrialRecord
from trainable.units import GIB

BUDGET_BYTES = 4 * GIB
TRIALS = 6


@pytest.fixture
def can_search(card: Card) -> None:
    command = [card.python, "-c", "import optuna, ray, soundfile"]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("the Python that FAKE_CARD names has no Ray, Optuna and soundfile, which a search needs")


def with_one_codebook(name: str) -> dict[str, Any]:
    """A space whose trials have one codebook: indices into others are sums, which some cards do not compute."""
    values = yaml.safe_load(load_space(name).text)
    del values["parameters"]["codebooks"]
    return values


def needs_a_smaller_plan(record: TrialRecord) -> bool:
    return record.start.plan != ExecutionPlan(micro_batch_clips=record.start.config.patch.batch_size)


@pytest.mark.usefixtures("can_search")
def test_a_third_of_a_search_needs_smaller_plans_and_none_is_over_its_budget(start: Start, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(with_one_codebook("ad_gpu"), sort_keys=False))
    words = f"--space space.yaml --local --gpu-memory-budget {BUDGET_BYTES // GIB}GiB --output run"
    drawn = f"--num-samples {TRIALS} --max-epochs 1 --sampler random --seed 2"
    _, error = (process := start("search.run", *words.split(), *drawn.split())).communicate()
    assert process.returncode == 0, error
    records = RunFolder(tmp_path / "run").read_trials()
    assert len(records) == TRIALS
    assert sum(map(needs_a_smaller_plan, records)) >= TRIALS / 3
    for record in records:
        assert record.epochs, record.outcome
        for report in record.epochs:
            assert 0 < report.driver_bytes <= BUDGET_BYTES
            assert report.events == (), "nothing ran out of memory"


@pytest.mark.usefixtures("can_search")
def test_a_card_gets_the_space_for_gpus(start: Start) -> None:
    out, error = (process := start("search.run", "--space", "ad_tuning", "--local", "--dry-run")).communicate()
    assert process.returncode == 0, error
    assert "space ad_tuning: trials run on a GPU, so ad_gpu is searched" in out
    assert "space ad_gpu: 40 trials" in out
