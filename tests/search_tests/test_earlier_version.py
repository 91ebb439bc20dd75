"""A run folder and a detector that version 0.1.0 wrote are read, resumed and scored as they were then.

`earlier/run_0_1_0.tar.xz` holds what version 0.1.0 (commit 118e73d) left behind on a killed search::

    python -m search.run --space ad_smoke --local --concurrency 1 --num-samples 6 --max-epochs 3 --grace-period 2 \\
        --startup-trials 2 --seed 3 --gpu-memory-budget 640MiB --quiet --output killed

killed after the first epoch of its fourth trial, and a detector retrained from the same search undisturbed. `TRIALS`
is what the undisturbed search gave.
"""

import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from analysis.results import load_run
from trainable.record import RunFolder

ARCHIVE = Path(__file__).parent / "earlier/run_0_1_0.tar.xz"
TRIALS = {
    0: (32, 5, 0.0029811024930145725, "completed", [0.7194, 0.7619, 0.8119]),
    1: (16, 11, 0.007124742579637945, "pruned", [0.6625, 0.7269]),
    2: (32, 5, 0.002200044456062231, "pruned", [0.7075, 0.6506]),
    3: (32, 16, 0.0018474271683028226, "pruned", [0.6519, 0.6469]),
    4: (64, 4, 0.007315628249898237, "pruned", [0.6444, 0.6963]),
    5: (32, 16, 0.00786308796199435, "completed", [0.6475, 0.7506, 0.8006]),
}
"""Trial → codes, latent width, learning rate, ending, validation AUC after each epoch."""
AUC_TOLERANCE = 0.02
"""Sums are rounded otherwise by another processor's libraries; on one machine the figures are the same."""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


def test_the_record_of_an_earlier_version_is_read(unpacked):
    records = RunFolder(unpacked / "killed").read_trials()
    assert [record.number for record in records] == [0, 1, 2, 3]
    assert [len(record.epochs) for record in records] == [3, 2, 2, 1]
    assert records[3].outcome is None
    run = load_run(unpacked / "killed")
    assert list(run.trials.index) == [0, 1, 2, 3]


def test_a_search_of_an_earlier_version_is_resumed_to_the_same_table(unpacked):
    command = [sys.executable, "-m", "search.run", "--resume", str(unpacked / "killed"), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    records = {record.number: record for record in RunFolder(unpacked / "killed").read_trials()}
    assert sorted(records) == sorted(TRIALS)
    for number, (codes, width, rate, end, aucs) in TRIALS.items():
        record = records[number]
        assert record.start.params["num_embeddings"] == codes
        assert record.start.params["latent_dim"] == width
        assert record.start.params["learning_rate"] == pytest.approx(rate, rel=1e-9)
        assert record.outcome is not None
        assert record.outcome.end == end
        assert [report.validation_auc for report in record.epochs] == pytest.approx(aucs, abs=AUC_TOLERANCE)


def test_a_detector_of_an_earlier_version_scores_as_it_did(unpacked):
    time = np.arange(160_000) / 16_000
    noise = np.random.default_rng(0).standard_normal(160_000)
    sound = (0.2 * np.sin(2 * np.pi * 300 * time) + 0.02 * noise).astype("float32")
    soundfile.write(unpacked / "probe.wav", sound, 16_000)
    command = [sys.executable, "-m", "trainable.score", "--model", str(unpacked / "detector"), "--machine-id", "02"]
    done = subprocess.run([*command, str(unpacked / "probe.wav")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    header, line = done.stdout.splitlines()
    values = dict(zip(header.split(","), line.split(","), strict=True))
    assert float(values["score"]) == pytest.approx(31.4174, rel=1e-2)
