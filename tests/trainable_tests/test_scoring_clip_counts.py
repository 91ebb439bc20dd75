"""How many clips judged, in words."""

import numpy as np
import pytest

from trainable.scoring.clip_counts import FEW_CLIPS, ClipCounts, auc_text


@pytest.mark.parametrize(
    ("normal", "anomalous", "words"),
    [
        (80, 80, ""),
        (FEW_CLIPS, FEW_CLIPS, ""),
        (80, 3, "only 3 anomalous clips judge: the interval says little; add some"),
        (1, 80, "only 1 normal clip judges: the interval says little; add some"),
        (1, 9, "only 1 normal and 9 anomalous clips judge: the interval says little; add some"),
    ],
)
def test_few_clips_are_warned_of(normal: int, anomalous: int, words: str) -> None:
    counts = ClipCounts.of(np.repeat([0, 1], [normal, anomalous]))
    assert counts == ClipCounts(normal, anomalous)
    assert counts.warning == words
    assert counts.few == bool(words)


def test_a_summary_gives_back_what_was_written() -> None:
    assert ClipCounts.from_dict(ClipCounts(80, 3).to_dict()) == ClipCounts(80, 3)
    assert ClipCounts.from_dict(None) is None


def test_an_auc_is_written_with_what_is_known() -> None:
    clips = ClipCounts(1080, 1)
    assert auc_text(0.941, (0.91, 0.97), clips) == (
        "0.941 (95 % interval 0.910 … 0.970; 1,080 normal, 1 anomalous clip)"
    )
    assert auc_text(0.941, (0.91, 0.97), None) == "0.941 (95 % interval 0.910 … 0.970)"
    assert auc_text(0.941, None, None) == "0.941"
