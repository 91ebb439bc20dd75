"""The yardsticks: they refuse test clips, find what is plain to hear, and are the same every time."""

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf

from benchmarks.yardsticks import Autoencoder, LogMelMahalanobis
from tests.noise_clips import noise_train_clips
from trainable.data.clips import ClipSet, Split, TestClips, TrainClips
from trainable.errors import DataError, DataLeakError
from trainable.scoring.metrics import mean_auc


def as_test(clips: ClipSet, *, louder: bool) -> TestClips:
    """The same clips as test clips; every second one of an id has some bins raised."""
    labels = (np.arange(len(clips)) // 3) % 2 if louder else np.zeros(len(clips), dtype=np.int64)
    frames = clips.frames_TF.copy()
    for index in np.flatnonzero(labels):
        frames[clips.offsets[index] : clips.offsets[index + 1], 20:24] += 1.5
    return TestClips(frames, clips.offsets, clips.machine_ids, clips.names, Split.VALIDATION, labels=labels)


@pytest.fixture
def train() -> TrainClips:
    return noise_train_clips(36)


@pytest.fixture
def validation() -> TestClips:
    return as_test(noise_train_clips(24, seed=1), louder=True)


@pytest.mark.parametrize("baseline", [LogMelMahalanobis, Autoencoder])
def test_fitting_to_test_clips_raises(
    baseline: type[LogMelMahalanobis | Autoencoder], train: TrainClips, validation: TestClips
) -> None:
    with pytest.raises(DataLeakError, match="validation clips to fit"):
        baseline().fit(validation)  # type: ignore[arg-type]
    loose = ClipSet(train.frames_TF, train.offsets, train.machine_ids, train.names, Split.TRAIN)
    with pytest.raises(DataLeakError):
        baseline().fit(loose)  # type: ignore[arg-type]


@pytest.mark.parametrize("baseline", [LogMelMahalanobis, Autoencoder])
def test_louder_bins_score_higher_every_time_alike(
    baseline: type[LogMelMahalanobis | Autoencoder], train: TrainClips, validation: TestClips
) -> None:
    scores = baseline().fit(train).score_samples(validation)
    assert scores.dtype == np.float64
    assert mean_auc(validation.labels, scores, validation.machine_ids) > 0.9
    np.testing.assert_array_equal(scores, baseline().fit(train).score_samples(validation))


def test_the_covariance_is_scikit_learn_s(train: TrainClips, validation: TestClips) -> None:
    def moments(clips: ClipSet, machine_id: str) -> np.ndarray:
        parts = np.split(clips.frames_TF.astype(np.float64), clips.offsets[1:-1])
        chosen = [part for part, name in zip(parts, clips.machine_ids, strict=True) if name == machine_id]
        return np.array([np.concatenate([part.mean(0), part.std(0)]) for part in chosen])

    expected = LedoitWolf().fit(moments(train, "01")).mahalanobis(moments(validation, "01"))
    scores = LogMelMahalanobis().fit(train).score_samples(validation)
    np.testing.assert_allclose(scores[np.array(validation.machine_ids) == "01"], expected, rtol=1e-5)


def test_an_unheard_id_is_an_error(train: TrainClips, validation: TestClips) -> None:
    strangers = TestClips(
        validation.frames_TF,
        validation.offsets,
        ("09",) * len(validation),
        validation.names,
        Split.VALIDATION,
        labels=validation.labels,
    )
    with pytest.raises(DataError, match=r"id 09 has no training clips; the known ids are 00, 01, 02"):
        LogMelMahalanobis().fit(train).score_samples(strangers)


def test_a_clip_s_error_is_the_mean_over_its_own_frames_alone(train: TrainClips) -> None:
    """Stacks of five frames never reach into the next clip."""
    model = Autoencoder(epochs=1).fit(train)
    clips = as_test(train, louder=False)
    together = model.score_samples(clips)
    begin, end = clips.offsets[4], clips.offsets[5]
    alone = TestClips(
        clips.frames_TF[begin:end],
        np.array([0, end - begin]),
        clips.machine_ids[4:5],
        clips.names[4:5],
        Split.VALIDATION,
        labels=clips.labels[4:5],
    )
    assert model.score_samples(alone)[0] == pytest.approx(together[4], rel=1e-5)
