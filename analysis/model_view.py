"""A trained trial restored from its checkpoint: codes, scores and maps for the pictures that need a model.

Besides `analysis.retrain`, the only module of this package that imports torch.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analysis.commands import retrain_command
from analysis.results import RunResults
from trainable.checkpoint_place import CheckpointPlace, absolute_place, place_under
from trainable.config import DataConfig, DensityName, FrontEndConfig, TrialConfig
from trainable.data.clips import Split, TestClips
from trainable.data.frontend import N_MELS, hz_to_mel, mel_to_hz
from trainable.data.load import Dataset, load_dataset
from trainable.data.readers import is_npy
from trainable.detection.detector import MAP_DENSITY
from trainable.errors import CheckpointError, RunError
from trainable.model.geometry import Geometry, geometry_of
from trainable.normal_only.pseudo import PseudoAnomalies
from trainable.scoring.codes import ClipCodes
from trainable.scoring.combined import Combined
from trainable.scoring.density import DensityModel, PositionModel
from trainable.scoring.evaluate import Evaluation, evaluate
from trainable.scoring.registry import make_density
from trainable.training.checkpoint import list_checkpoints, read_checkpoint
from trainable.training.seeds import derived_seed
from trainable.trial import PlannedTrial, Trial
from trainable.units import counted


@dataclass
class ModelView:
    """One trial at one checkpoint, with the data it was trained on."""

    number: int
    epoch: int
    """Epoch of the checkpoint."""
    trial: Trial
    dataset: Dataset
    front_end: FrontEndConfig
    raw: bool
    """Whether `front_end` computed the features; the front end of precomputed features is unknown."""

    def __post_init__(self) -> None:
        # By split, filled on demand: held-out clips are not even coded before they may be scored.
        self._codes: dict[Split, ClipCodes] = {}
        self._scores: dict[Split, np.ndarray] = {}
        self._evaluations: dict[Split, Evaluation] = {}

    @property
    def seconds_per_frame(self) -> float:
        return self.front_end.hop_length / self.front_end.sample_rate

    @property
    def mel_hz(self) -> np.ndarray | None:
        """Centre of each mel bin, Hz (64,); None for precomputed features, whose front end is unknown."""
        if not self.raw:
            return None
        edges = torch.linspace(hz_to_mel(0.0), hz_to_mel(self.front_end.sample_rate / 2), N_MELS + 2)
        return mel_to_hz(edges[1:-1]).numpy()

    @property
    def surprise_unit(self) -> str:
        """Unit of `position_scores`."""
        return self.map_density.unit

    @property
    def config(self) -> TrialConfig:
        return self.trial.config

    @property
    def geometry(self) -> Geometry:
        return geometry_of(self.config)

    @cached_property
    def train_codes(self) -> ClipCodes:
        return self.trial.train_codes()

    def clips(self, split: Split) -> TestClips:
        """The clips of a split; of `Split.HELD_BACK` with the pseudo-anomalies made of them.

        Raises RunError if no clip is held back.
        """
        if split is not Split.HELD_BACK:
            return self.trial.clips(split)
        return self.pseudo.clips

    @property
    def pseudo(self) -> PseudoAnomalies:
        """Raises RunError if the trial was judged by labels alone."""
        if self.dataset.pseudo is None:
            raise RunError(f"trial {self.number} was judged by labels alone; there are no pseudo-anomalies")
        return self.dataset.pseudo

    def codes(self, split: Split) -> ClipCodes:
        """Codes of a split's clips."""
        if split not in self._codes:
            self._codes[split] = self.trial.codes(self.clips(split))
        return self._codes[split]

    @cached_property
    def density(self) -> DensityModel:
        """The configured density model, fitted to the training clips' codes."""
        return self._fitted(None)

    @cached_property
    def map_density(self) -> PositionModel:
        """A density model that scores every position: the configured one if it can."""
        if isinstance(self.density, PositionModel):
            return self.density
        model = self._fitted(MAP_DENSITY)
        if not isinstance(model, PositionModel):
            raise TypeError(f"{MAP_DENSITY} scores no positions")
        return model

    @property
    def map_words(self) -> str:
        """Which density model the maps are by, beside the one whose score counts."""
        mine, scored = self.map_density.name.replace("_", " "), self.density.name.replace("_", " ")
        if self.map_density is self.density:
            return f"{mine}, whose score of a clip counts"
        part = isinstance(self.density, Combined) and type(self.map_density) in self.density.kinds
        how = f"one part of {scored}" if part else f"fitted to the same codes beside {scored}"
        return f"{mine}, {how}, whose score counts but is of whole clips only"

    def _fitted(self, name: DensityName | None) -> DensityModel:
        model = make_density(self.config.score, name=name, seed=derived_seed(self.config.seed, "density"))
        return model.fit(self.train_codes, self.trial.codebook())

    def scores(self, split: Split) -> np.ndarray:
        """Anomaly scores of a split's clips, float64 (clips,)."""
        if split not in self._scores:
            self._scores[split] = self.density.score_samples(self.codes(split))
        return self._scores[split]

    def evaluation(self, split: Split) -> Evaluation:
        """AUC, pAUC, interval and scores on the clips of a split, of which some must be labelled anomalies."""
        if split not in self._evaluations:
            self._evaluations[split] = evaluate(self.scores(split), self.clips(split))
        return self._evaluations[split]

    def position_scores(self, split: Split, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Features (T, 64), surprise (P, H, W) and patch starts (P,) of one clip of a split."""
        clips, codes = self.clips(split), self.codes(split)
        one = codes.take([index])
        surprise = self.map_density.position_scores(one)[0].numpy()
        begin, end = int(clips.offsets[index]), int(clips.offsets[index + 1])
        return clips.frames_TF[begin:end], surprise, one.starts_BP[0].numpy()


def checkpoint_places(run: RunResults, number: int) -> list[CheckpointPlace]:
    """Where a trial's checkpoints may be: under the run's ``--storage-path``, then in its folder."""
    places = []
    elsewhere = run.manifest.options.get("storage_path")
    if elsewhere:
        address = place_under(absolute_place(str(elsewhere)), run.manifest.identity, f"{number:05d}")
        places.append(CheckpointPlace(address))
    return [*places, CheckpointPlace(str(run.folder.checkpoint_path(number)))]


def read_newest(run: RunResults, number: int) -> dict[str, Any]:
    """Reads a trial's newest checkpoint, which is of the epoch it is ranked by; a store's is copied, read and removed.

    Raises
    ------
    RunError
        If the trial has none: it never trained, or its checkpoints were cleaned away.
    CheckpointError
        If the checkpoint is damaged, or its store cannot be reached.
    """
    places = checkpoint_places(run, number)
    for place in places:
        try:
            checkpoints = list_checkpoints(place.folder) if place.fetch() else {}
            if checkpoints:
                return read_checkpoint(checkpoints[max(checkpoints)])
        finally:
            place.forget_copy()
    raise RunError(f"trial {number} of {run.folder.path} has no checkpoint in {places[0].address}")


def load_view(run: RunResults, number: int, *, dataset: Dataset | None = None, device: str = "cpu") -> ModelView:
    """Restores a trial from its newest checkpoint.

    Raises
    ------
    RunError
        If the trial has no checkpoint, or was trained on other data.
    DataError
        If the data cannot be loaded.
    CheckpointError
        If the checkpoint is damaged.
    """
    if number not in run.records:
        raise RunError(f"{run.folder.path} holds no trial {number} that has started")
    state = read_newest(run, number)
    dataset = dataset or load_run_data(run)
    config = run.records[number].start.config
    trial = Trial(PlannedTrial.whole_batch(config), dataset, device=device)
    try:
        trial.restore(state)
    except KeyError as error:
        raise CheckpointError(f"the checkpoint of trial {number} is not of a trial: it lacks {error}") from None
    raw = not all(is_npy(Path(name)) for name in dataset.train.names)
    return ModelView(number, trial.epoch, trial, dataset, DataConfig.from_dict(run.manifest.data).front_end, raw)


def load_run_data(run: RunResults, *, allow_changes: bool = False) -> Dataset:
    """Loads the data set of a run.

    Parameters
    ----------
    allow_changes
        Takes recordings that have changed since the search, for a training that begins anew.

    Raises
    ------
    DataError
        If the recordings are gone.
    RunError
        If they have changed and may not: what was trained on others would not be comparable.
    """
    dataset = load_dataset(DataConfig.from_dict(run.manifest.data), checked=run.folder.check_path.exists())
    changed = changed_text(run, dataset)
    if changed and not allow_changes:
        raise RunError(
            f"{changed}; scores would not be comparable. Its configurations are trained on what is there now with "
            f"{retrain_command(run)} --allow-changes"
        )
    return dataset


def changed_text(run: RunResults, dataset: Dataset) -> str:
    """That a run's recordings are others now, and how many to train on; empty if they are the same."""
    if run.manifest.data_digest in ("", dataset.digest):
        return ""
    was = run.manifest.clips.get(Split.TRAIN.value)
    counts = "" if was is None else f" ({counted(was, 'training clip')} then, {len(dataset.train)} now)"
    return f"the recordings of {run.manifest.source} are not those that {run.folder.path} was trained on{counts}"
