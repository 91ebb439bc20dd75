"""A search begun from another one's best: what is taken over, and what is said of the rest."""

import json
import logging
from pathlib import Path

import pytest

from search.store.warm_start import initial_proposals, taken_over_text
from spaces.loader import space_from_text
from tests.analysis_tests.synthetic import manifest
from trainable.config import TrialConfig
from trainable.errors import RunError
from trainable.record import RunFolder, TrialEnd, TrialOutcome, TrialStart


def old_run(path: Path, *configs: dict[str, object]) -> str:
    """A run whose trials completed with AUCs 0.9, 0.8, …"""
    folder = RunFolder(path)
    folder.write_manifest(manifest(len(configs)))
    for number, params in enumerate(configs):
        config = TrialConfig.from_flat(params)
        folder.write_start(TrialStart(number=number, params=params, config=config, plan=None, predicted_bytes=0))
        auc = 0.9 - 0.1 * number
        outcome = TrialOutcome(end=TrialEnd.COMPLETED, reason="", epochs=1, best_auc=auc, final_auc=auc)
        folder.write_outcome(number, outcome)
    return str(path)


def test_the_best_are_taken_over_in_their_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = old_run(tmp_path / "run", {"latent_dim": 16, "stride": 8}, {"latent_dim": 32, "stride": 8})
    space = space_from_text("parameters: {latent_dim: {low: 8, high: 64}}", "new")
    with caplog.at_level(logging.WARNING, "search"):
        proposals = initial_proposals(run, space)
    assert proposals == [{"latent_dim": 16}, {"latent_dim": 32}]
    assert caplog.messages == []
    assert taken_over_text(run, proposals) == f"warm start: the best 2 configurations of {run} are proposed first"


def test_a_value_beyond_the_new_range_is_moved_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = old_run(tmp_path / "run", {"latent_dim": 128})
    space = space_from_text("parameters: {latent_dim: {low: 8, high: 64}, stride: {low: 16, high: 32}}", "new")
    with caplog.at_level(logging.WARNING, "search"):
        proposals = initial_proposals(run, space)
    assert proposals == [{"latent_dim": 64, "stride": 16}]
    assert caplog.messages == [f"--warm-start {run}: latent_dim moved to the nearest value of this space"]
    assert "the best configuration" in taken_over_text(run, proposals)


def test_where_nothing_can_be_expressed_it_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = old_run(tmp_path / "run", {"distance": "cosine"}, {"distance": "cosine", "stride": 8})
    space = space_from_text("parameters: {distance: {choices: [euclidean]}, stride: {low: 8, high: 32}}", "new")
    with caplog.at_level(logging.WARNING, "search"):
        proposals = initial_proposals(run, space)
    assert proposals == []
    (message,) = caplog.messages
    assert "2 of its configurations do not fit this space, which has no such choice of distance" in message
    assert message.endswith("the search starts without a warm start")
    assert taken_over_text(run, proposals) == f"warm start: no configuration of {run} can be used"


def test_a_run_without_a_completed_trial_gives_nothing(tmp_path: Path) -> None:
    run = old_run(tmp_path / "run")
    with pytest.raises(RunError, match="no trial of that run completed"):
        initial_proposals(run, space_from_text("parameters: {stride: {low: 8, high: 32}}", "new"))


def test_a_knob_that_the_old_run_did_not_know_has_its_default(tmp_path: Path) -> None:
    run = old_run(tmp_path / "run", {"latent_dim": 16})
    path = RunFolder(Path(run)).trial_path(0) / "trial.json"
    start = json.loads(path.read_text())
    for knob in ("codebook_dim", "distance"):
        del start["config"][knob]
    path.write_text(json.dumps(start))
    text = "parameters: {latent_dim: {low: 8, high: 64}, codebook_dim: {choices: [0, 16]}, distance: {choices: %s}}"
    known = {"latent_dim": 16, "codebook_dim": 0}
    both = space_from_text(text % "[euclidean, cosine]", "new")
    assert initial_proposals(run, both) == [{**known, "distance": "euclidean"}]
    assert initial_proposals(run, space_from_text(text % "[cosine]", "new")) == []
