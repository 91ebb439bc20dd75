"""Faults found at a rate of false alarms."""

import numpy as np

from trainable.scoring.faults_found import FaultsFound, faults_found


def test_the_threshold_is_the_conformal_one() -> None:
    """Of 39 normal clips at one false alarm in 20 one may lie at or above an alarm's score: 0 … 38, so above 37."""
    normal, anomalous = np.arange(39.0), np.array([37.0, 37.5, 50.0, 60.0])
    scores, labels = np.concatenate([normal, anomalous]), np.repeat([0, 1], [39, 4])
    found = faults_found(labels, scores, ("00",) * 43)
    assert found is not None
    assert (found.false_alarm_rate, found.share) == (0.05, 0.75)
    low, high = found.interval
    assert low < 0.4  # four faults say little
    assert high > 0.9
    assert found.text.startswith("about 8 of 10 faults (")
    assert found.text.endswith("at one false alarm in 20 normal recordings")
    assert FaultsFound.from_dict(found.to_dict()) == found
    assert FaultsFound.from_dict(None) is None


def test_each_machine_id_has_its_own_threshold() -> None:
    scores = np.concatenate([np.arange(19.0), [18.0, 20.0], 100 + np.arange(19.0), [90.0, 130.0]])
    labels = np.tile(np.repeat([0, 1], [19, 2]), 2)
    found = faults_found(labels, scores, ("00",) * 21 + ("02",) * 21)
    assert found is not None
    assert (found.false_alarm_rate, found.share) == (0.1, 0.75)


def test_few_normal_clips_say_nothing() -> None:
    scores, labels = np.arange(28.0), np.repeat([0, 1], [18, 10])
    assert faults_found(labels, scores, ("00",) * 28) is None


def test_new_normal_clips_raise_no_more_alarms_than_promised() -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1], [59, 59])
    shares = [faults_found(labels, rng.normal(size=118), ("00",) * 118).share for _ in range(60)]  # type: ignore[union-attr]
    assert np.mean(shares) < 0.055
