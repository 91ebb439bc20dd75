"""The winner's model where no anomaly is labelled."""

from pathlib import Path

import numpy as np
import pytest

from analysis.model_view import load_view
from analysis.results import load_run
from analysis.style import Message
from analysis.winner_model import WinnerModel, restore_winner
from trainable.data.clips import Split
from trainable.errors import RunError


@pytest.fixture(scope="module")
def winner(unlabelled_path: Path) -> WinnerModel:
    return restore_winner(load_run(unlabelled_path))


def test_pictures_of_labelled_clips_say_why_they_are_missing(winner: WinnerModel) -> None:
    assert winner.view is not None
    for figure in (winner.score_histograms(), winner.score_histograms(Split.VALIDATION), winner.roc()):
        assert isinstance(figure, Message)
        assert "No anomaly is labelled" in figure.message
        assert "--objective both" in figure.message
    assert isinstance(winner.anomaly_codes(), Message)
    assert not isinstance(winner.codebook_usage(), Message)
    assert winner.held_out() is None
    assert winner.yardsticks is None
    assert "No anomaly is labelled" in winner.held_out_table().rows[0][0]
    assert "No anomaly is labelled" in winner.yardstick_table().rows[0][0]


def test_the_pseudo_anomaly_that_scores_highest_of_each_family_is_shown(winner: WinnerModel) -> None:
    view = winner.view
    assert view is not None
    pictures = winner.surprise()
    assert [name for name, _ in pictures] == [
        "pseudo-anomaly (roughness) with the highest score",
        "pseudo-anomaly (bursts) with the highest score",
        "pseudo-anomaly (stretch) with the highest score",
        "held-back clip with the median score",
    ]
    scores, clips = view.scores(Split.HELD_BACK), view.clips(Split.HELD_BACK)
    assert len(scores) == len(clips) == len(view.pseudo.families)
    for family, (_, figure) in zip(("roughness", "bursts", "stretch"), pictures, strict=False):
        mine = np.flatnonzero(np.array(view.pseudo.families) == family)
        highest = clips.names[mine[scores[mine].argmax()]]
        assert figure.axes[0].get_title(loc="left").startswith(f"{highest}: pseudo-anomaly ({family})")


def test_the_checkpoint_gives_the_recorded_pseudo_auc(winner: WinnerModel) -> None:
    view = winner.view
    assert view is not None
    last = winner.run.records[view.number].epochs[-1]
    aucs = view.pseudo.aucs(view.scores(Split.HELD_BACK))
    assert aucs == pytest.approx(last.pseudo_auc_by_density[view.config.score.density])


def test_a_trial_that_labels_judged_has_no_pseudo_anomalies(trained_path: Path) -> None:
    view = load_view(load_run(trained_path), 0)
    with pytest.raises(RunError, match="judged by labels alone"):
        view.clips(Split.HELD_BACK)
