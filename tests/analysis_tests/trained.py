"""A small run of real trials on a small real data set: what pictures of a model, retraining and scoring need.

Anomalies differ by a tone band that normal clips never have, so even a tiny model finds them.
"""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from tests.analysis_tests.synthetic import manifest
from trainable.config import DataConfig, Objective, TrialConfig
from trainable.data.load import load_dataset
from trainable.durable import write_json
from trainable.record import RunFolder, RunManifest, TrialEnd, TrialOutcome, TrialStart
from trainable.trial import PlannedTrial, Trial

IDS = ("00", "02")
EPOCHS = 3
FRAMES = 160
FAULT_FRAMES = slice(96, 128)
FAULT_MELS = slice(40, 52)
TINY = {
    "epochs": EPOCHS,
    "width": 0.125,
    "latent_dim": 8,
    "num_embeddings": 16,
    "head_hidden": 8,
    "n_patches": 4,
    "stride": 32,
    "batch_size": 8,
}


def spectrogram(machine: int, seed: int, *, faulty: bool) -> np.ndarray:
    """A clip of a machine: its own steady bands and noise, (64, FRAMES) in dB; a fault is a burst in other bands."""
    rng = np.random.default_rng([machine, seed, int(faulty)])
    clip = rng.normal(-40.0, 2.0, (64, FRAMES))
    clip[8 + 8 * machine : 12 + 8 * machine] += 18.0 + 4.0 * np.sin(np.arange(FRAMES) / 5.0 + rng.random())
    if faulty:
        clip[FAULT_MELS, FAULT_FRAMES] += 25.0
    return clip.astype(np.float32)


def write_recordings(root: Path, *, machine_type: str = "grinder", train: int = 16, test: int = 12) -> Path:
    """A data set in DCASE's layout, of ``.npy`` files."""
    for machine, machine_id in enumerate(IDS):
        for part, label, count in (("train", "normal", train), ("test", "normal", test), ("test", "anomaly", test)):
            folder = root / machine_type / part
            folder.mkdir(parents=True, exist_ok=True)
            for index in range(count):
                seed = index + (1000 if part == "test" else 0)
                clip = spectrogram(machine, seed, faulty=label == "anomaly")
                np.save(folder / f"{label}_id_{machine_id}_{index:08d}.npy", clip)
    return root


def train_run(
    path: Path, recordings: Path, cache: Path, *, trials: int = 2, objective: Objective = Objective.LABELS
) -> Path:
    """Trains tiny configurations for real and records them as a search does (without a study)."""
    data = DataConfig(data_root=str(recordings), machine_type="grinder", objective=objective.value)
    dataset = load_dataset(data, cache_dir=cache)
    folder = RunFolder(path)
    if dataset.check is not None:
        folder.write_check(dataset.check.to_dict())
    folder.write_manifest(
        RunManifest(
            **{
                **asdict(manifest(trials)),
                "name": "trained",
                "data": data.to_dict(),
                "data_digest": dataset.digest,
                "pseudo": {} if dataset.pseudo is None else dataset.pseudo.to_dict(),
                "clips": {each.split.value: len(each) for each in (dataset.train, *dataset.evaluated)},
                "max_epochs": EPOCHS,
                "history": (),
            }
        )
    )
    for number in range(trials):
        params = {"num_embeddings": 16 * (number + 1)}
        config = TrialConfig.from_flat({**TINY, **params, "seed": number})
        planned = PlannedTrial.whole_batch(config)
        folder.write_start(
            TrialStart(number=number, params=params, config=config, plan=planned.memory.plan, predicted_bytes=0)
        )
        trial = Trial(planned, dataset)
        aucs = []
        while not trial.done:
            report = trial.step()
            aucs.append(report.value)
            folder.append_epoch(number, report)
            trial.save(folder.checkpoint_path(number))
        folder.write_outcome(
            number,
            TrialOutcome(end=TrialEnd.COMPLETED, reason="", epochs=EPOCHS, best_auc=max(aucs), final_auc=aucs[-1]),
        )
    write_json(folder.summary_path, {"parts": 1})
    return path
