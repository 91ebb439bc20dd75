"""What a search proposes first: the best of earlier runs and the portfolio, and what is said of them."""

import json
import logging
from pathlib import Path

import pytest
import yaml

from search.first_proposals import PORTFOLIO, first_proposals, of_portfolio, of_runs
from spaces.loader import load_space, space_from_text
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
        proposals = of_runs([run], space)
    assert proposals == [{"latent_dim": 16}, {"latent_dim": 32}]
    assert caplog.messages == []
    (line,) = first_proposals([run], space, portfolio=False).lines
    assert line == f"warm start: the best 2 configurations of {run} are proposed first"


def test_a_value_beyond_the_new_range_is_moved_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = old_run(tmp_path / "run", {"latent_dim": 128})
    space = space_from_text("parameters: {latent_dim: {low: 8, high: 64}, stride: {low: 16, high: 32}}", "new")
    with caplog.at_level(logging.WARNING, "search"):
        proposals = of_runs([run], space)
    assert proposals == [{"latent_dim": 64, "stride": 16}]
    assert caplog.messages == [f"--warm-start {run}: latent_dim moved to the nearest value of this space"]
    assert "the best configuration" in first_proposals([run], space, portfolio=False).lines[0]


def test_where_nothing_can_be_expressed_it_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = old_run(tmp_path / "run", {"distance": "cosine"}, {"distance": "cosine", "stride": 8})
    space = space_from_text("parameters: {distance: {choices: [euclidean]}, stride: {low: 8, high: 32}}", "new")
    with caplog.at_level(logging.WARNING, "search"):
        proposals = of_runs([run], space)
    assert proposals == []
    (message,) = caplog.messages
    assert "2 of its configurations do not fit this space, which has no such choice of distance" in message
    assert message.endswith("the search starts without them")
    assert first_proposals([run], space, portfolio=False).lines == (
        f"warm start: no configuration of {run} can be used",
    )


def test_a_run_without_a_completed_trial_gives_nothing(tmp_path: Path) -> None:
    run = old_run(tmp_path / "run")
    with pytest.raises(RunError, match="no trial of that run completed"):
        of_runs([run], space_from_text("parameters: {stride: {low: 8, high: 32}}", "new"))


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
    assert of_runs([run], both) == [{**known, "distance": "euclidean"}]
    assert of_runs([run], space_from_text(text % "[cosine]", "new")) == []


def test_a_grid_that_was_left_to_the_model_has_its_own_numbers(tmp_path: Path) -> None:
    run = old_run(tmp_path / "run", {"columns": 16})
    both = space_from_text("parameters: {rows: {choices: [8, 16]}, columns: {choices: [8, 16]}}", "new")
    assert of_runs([run], both) == [{"rows": 8, "columns": 16}]
    assert of_runs([run], space_from_text("parameters: {rows: {choices: [0, 16]}}", "new")) == [{"rows": 0}]


def test_the_best_of_several_runs_come_by_turns_and_each_once(tmp_path: Path) -> None:
    one = old_run(tmp_path / "runs/one", {"latent_dim": 16}, {"latent_dim": 32})
    other = old_run(tmp_path / "runs/other", {"latent_dim": 16}, {"latent_dim": 48})
    space = space_from_text("parameters: {latent_dim: {low: 8, high: 64}}", "new")
    expected = [{"latent_dim": 16}, {"latent_dim": 32}, {"latent_dim": 48}]
    assert of_runs([one, other], space) == expected
    old_run(tmp_path / "runs/empty")
    assert of_runs([str(tmp_path / "runs")], space) == expected, "a folder of runs means those that finished"
    (line,) = first_proposals([one, other], space, portfolio=False).lines
    assert line == f"warm start: the best 3 configurations of {one}, {other} are proposed first"


def test_a_folder_without_a_finished_run_gives_nothing(tmp_path: Path) -> None:
    old_run(tmp_path / "runs/empty")
    with pytest.raises(RunError, match="no trial of the runs in that folder completed"):
        of_runs([str(tmp_path / "runs")], space_from_text("parameters: {stride: {low: 8, high: 32}}", "new"))


def test_the_default_space_holds_the_whole_portfolio() -> None:
    space = load_space("ad_tuning")
    proposals = of_portfolio(space)
    assert len(proposals) == len(yaml.safe_load(PORTFOLIO.read_text())["configurations"])
    assert all(space.holds(params) for params in proposals)


def test_a_space_gets_only_what_it_holds_as_it_is() -> None:
    rates = sorted(params["learning_rate"] for params in of_portfolio(load_space("ad_tuning")))
    wide = space_from_text("parameters: {learning_rate: {low: 1.0e-4, high: 1.0e-1, log: true}}", "wide")
    assert sorted(params["learning_rate"] for params in of_portfolio(wide)) == sorted(set(rates))
    narrow = space_from_text(f"parameters: {{learning_rate: {{low: {rates[0] * 1.01}, high: 1.0e-1}}}}", "narrow")
    assert {"learning_rate": rates[0]} not in of_portfolio(narrow), "no value is moved"
    assert of_portfolio(space_from_text("parameters: {latent_dim: {low: 600, high: 1000}}", "other")) == []
    assert of_portfolio(load_space("ad_gpu")) == [], "its models are larger"


def test_the_portfolio_follows_a_warm_start_and_repeats_none_of_it(tmp_path: Path) -> None:
    space = load_space("ad_tuning")
    portfolio = of_portfolio(space)
    run = old_run(tmp_path / "run", portfolio[1])
    first = first_proposals([run], space, portfolio=True)
    assert list(first.params) == [portfolio[1], portfolio[0], *portfolio[2:]]
    assert "proposed next (not with --no-portfolio)" in first.lines[1]
    assert first_proposals([], space, portfolio=False).params == ()
