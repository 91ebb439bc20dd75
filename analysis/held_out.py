"""Held-out clips scored with what a search left: its detector, or its best trial where it left none."""

from analysis.model_view import load_run_data, load_view
from analysis.results import RunResults
from trainable.data.clips import Split
from trainable.detection.detector import Detector
from trainable.errors import RunError
from trainable.scoring.evaluate import Evaluation, evaluate


def held_out_evaluation(run: RunResults, *, device: str = "cpu") -> Evaluation:
    """Evaluates a run on its held-out clips.

    Raises
    ------
    RunError
        If no trial has an epoch, the best one has no checkpoint, or the recordings have changed.
    DataError
        If the recordings are gone.
    CheckpointError
        If the detector or the checkpoint is damaged.
    """
    dataset = load_run_data(run)
    if run.folder.detector_path.is_dir():
        detector = Detector.load(run.folder.detector_path, device=device)
        return evaluate(detector.score_clips(dataset.held_out), dataset.held_out)
    if run.best_number is None:
        raise RunError(f"no trial of {run.folder.path} has finished an epoch, so nothing can score its clips")
    return load_view(run, run.best_number, dataset=dataset, device=device).evaluation(Split.HELD_OUT)
