"""A trained trial brought back from its checkpoint: codes, scores and maps for the pictures that need a model.

The only module of this room, with `analysis.retrain`, that imports torch.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from analysis.results import RunResults
from trainable.config import DataConfig, DensityName, TrialConfig
from trainable.data.clips import Split, TestClips
from trainable.data.load import Dataset, load_dataset
from trainable.errors import CheckpointError, RunError
from trainable.scoring.codes import ClipCodes
from trainable.scoring.density import DensityModel, PositionModel
from trainable.scoring.evaluate import Evaluation, evaluate
from trainable.scoring.registry import make_density
from trainable.training.checkpoint import list_checkpoints, read_checkpoint
from trainable.training.seeds import derived_seed
from trainable.trial import Trial, default_plan

MAP_DENSITY: DensityName = "grid_neighbours"
"""Where the configured density gives a clip's score only, its maps come from this one."""


@dataclass
class ModelView:
    """One trial as it stood at one checkpoint, with the data it was trained on."""

    number: int
    epoch: int
    """Epoch of the checkpoint."""
    trial: Trial
    dataset: Dataset
    seconds_per_frame: float

    @property
    def config(self) -> TrialConfig:
        return self.trial.config

    @cached_property
    def train_codes(self) -> ClipCodes:
        return self.trial.train_codes()

    @cached_property
    def _test_codes(self) -> dict[Split, ClipCodes]:
        return {split: self.trial.codes(self.clips(split)) for split in (Split.VALIDATION, Split.HELD_OUT)}

    def clips(self, split: Split) -> TestClips:
        return self.trial.clips(split)

    def codes(self, split: Split) -> ClipCodes:
        """Codes of the labelled clips of a split."""
        return self._test_codes[split]

    @cached_property
    def density(self) -> DensityModel:
        """The configured density model, fitted to the training clips' codes."""
        return self._fitted(None)

    @cached_property
    def map_density(self) -> PositionModel:
        """A density model that says how surprising every position is: the configured one where it can."""
        if isinstance(self.density, PositionModel):
            return self.density
        model = self._fitted(MAP_DENSITY)
        if not isinstance(model, PositionModel):
            raise TypeError(f"{MAP_DENSITY} gives no positions")
        return model

    def _fitted(self, name: DensityName | None) -> DensityModel:
        model = make_density(self.config.score, name=name, seed=derived_seed(self.config.seed, "density"))
        return model.fit(self.train_codes, self.trial.codebook())

    def evaluation(self, split: Split) -> Evaluation:
        """AUC, pAUC, interval and scores on the clips of a split."""
        return self._evaluations[split]

    @cached_property
    def _evaluations(self) -> dict[Split, Evaluation]:
        return {
            split: evaluate(self.density.score_samples(self.codes(split)), self.clips(split))
            for split in (Split.VALIDATION, Split.HELD_OUT)
        }

    def position_scores(self, split: Split, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Features (T, 64), surprise (P, 8, 8) and patch starts (P,) of one clip of a split."""
        clips, codes = self.clips(split), self.codes(split)
        one = codes.take([index])
        surprise = self.map_density.position_scores(one)[0].numpy()
        begin, end = int(clips.offsets[index]), int(clips.offsets[index + 1])
        return clips.frames_TF[begin:end], surprise, one.starts_BP[0].numpy()


def find_checkpoint(run: RunResults, number: int) -> Path:
    """The newest checkpoint of a trial: that of the epoch it is ranked by.

    Raises
    ------
    RunError
        If the trial has none: it never trained, or its checkpoints were cleaned away.
    """
    folders = [run.folder.checkpoint_path(number)]
    elsewhere = run.manifest.options.get("storage_path")
    if elsewhere:
        root = Path(str(elsewhere)).expanduser()
        folders += [
            root / run.manifest.identity / f"{number:05d}",
            root / run.manifest.name / "trials" / f"{number:05d}" / "checkpoints",
            root / "trials" / f"{number:05d}" / "checkpoints",
            root / run.manifest.name / f"{number:05d}",
            root / f"{number:05d}",
        ]
    for folder in folders:
        checkpoints = list_checkpoints(folder)
        if checkpoints:
            return checkpoints[max(checkpoints)]
    raise RunError(f"trial {number} of {run.folder.path} has no checkpoint in {folders[0]}")


def load_view(run: RunResults, number: int, *, dataset: Dataset | None = None, device: str = "cpu") -> ModelView:
    """A trial as its newest checkpoint holds it.

    Raises
    ------
    RunError
        If the trial has no checkpoint, or the data are not those it was trained on.
    DataError
        If the data cannot be loaded.
    CheckpointError
        If the checkpoint is damaged.
    """
    if number not in run.records:
        raise RunError(f"{run.folder.path} holds no trial {number} that has started")
    path = find_checkpoint(run, number)
    dataset = dataset or load_run_data(run)
    config = TrialConfig.from_flat(run.records[number].start.config)
    state = read_checkpoint(path)
    trial = Trial(config, dataset, plan=default_plan(config), device=device)
    try:
        trial.restore(state)
    except KeyError as error:
        raise CheckpointError(f"checkpoint {path} is not a trial's: it lacks {error}") from None
    front_end = DataConfig.from_dict(run.manifest.data).front_end
    return ModelView(
        number, trial.epoch, trial, dataset, seconds_per_frame=front_end.hop_length / front_end.sample_rate
    )


def load_run_data(run: RunResults) -> Dataset:
    """The data set of a run. Raises DataError if it is gone, RunError if its contents have changed since."""
    dataset = load_dataset(DataConfig.from_dict(run.manifest.data))
    if run.manifest.data_digest and dataset.digest != run.manifest.data_digest:
        raise RunError(
            f"the recordings of {run.manifest.data.get('data_root') or 'the embedded machines'} are not those that "
            f"{run.folder.path} was trained on; scores would not be comparable"
        )
    return dataset
