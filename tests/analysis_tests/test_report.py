"""The report: complete, one file, the same for the same run, and honest about what is missing."""

import dataclasses
import html
import json
import re
import shutil
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from unittest.mock import patch

import pytest

from analysis import report
from analysis.figures.progress import search_progress
from analysis.figures.rungs import asha_rungs
from analysis.headline import headline
from analysis.judged import members
from analysis.report_content import (
    Picture,
    Section,
    driver_text,
    events_text,
    in_rows,
    report_content,
    summary_sentence,
)
from analysis.results import RunResults, load_run
from analysis.style import message_figure
from analysis.winner_model import restore_winner
from tests.analysis_tests.synthetic import make_run
from trainable import commandline
from trainable.config import Objective
from trainable.data.clips import Split
from trainable.detection.ranking import Pair
from trainable.errors import RunError
from trainable.yardsticks.comparison import Comparison

SECTIONS = (
    "What was searched",
    "What won, and why",
    "Detection on held-out clips",
    "How trials ended",
    "Which parameters mattered",
    "What it costs: memory and time",
    "What the codes say",
    "What to do next",
)


class Page(HTMLParser):
    """What a browser would load and jump to."""

    def __init__(self, text: str):
        super().__init__()
        self.loads: list[str] = []
        self.targets: list[str] = []
        self.names: set[str] = set()
        self.undescribed = 0
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.add(tag)
        self.loads += [value for name in ("src", "srcset", "data") if (value := values.get(name))]
        if tag == "link":
            self.loads.append(values.get("href") or "")
        if tag == "a":
            self.targets.append(values.get("href") or "")
        if name := values.get("id"):
            self.names.add(name)
        if tag == "img" and not values.get("alt"):
            self.undescribed += 1


def test_a_page_needs_nothing_but_itself(synthetic_page: str) -> None:
    page = Page(synthetic_page)
    assert len(page.loads) > 10
    assert all(load.startswith("data:") for load in page.loads)
    assert "script" not in page.tags
    assert page.undescribed == 0
    assert "url(" not in synthetic_page
    assert "@import" not in synthetic_page
    assert len(synthetic_page.encode()) < 5 * 1024**2


def test_links_lead_to_the_sections(synthetic_page: str) -> None:
    page = Page(synthetic_page)
    assert len(page.targets) == len(SECTIONS)
    assert all(target.removeprefix("#") in page.names for target in page.targets)


def test_sections_and_headline(synthetic_page: str, synthetic_run: RunResults) -> None:
    assert tuple(re.findall(r"<h2>(.*?)</h2>", synthetic_page)) == SECTIONS
    assert "<h1>Search synthetic</h1>" in synthetic_page
    assert "40 configurations" in synthetic_page
    assert f"trial {synthetic_run.best_number}" in synthetic_page
    assert "It was omitted on request (--no-model)." in synthetic_page
    assert not re.search(r"\(--no-model\)\.\s*[a-z]", synthetic_page), "another sentence ran into it"
    text = html.unescape(synthetic_page)
    assert "how unusual a recording is. Training uses normal recordings only. Trials are compared by AUC" in text


def test_a_trained_run_shows_held_out_clips_and_codes(trained_page: str) -> None:
    text = re.sub(r'src="data:[^"]*"', "", trained_page)
    assert "held-out AUC" in text
    assert "95 % interval" in text
    assert "anomaly with the highest score" in text
    assert "Use of the codebook." in text
    assert len(trained_page.encode()) < 5 * 1024**2


def test_held_out_numbers_are_the_evaluations(trained_path: Path) -> None:
    from analysis.model_view import load_view
    from trainable.data.clips import Split

    run = load_run(trained_path)
    held_out = load_view(run, run.best_number or 0).evaluation(Split.HELD_OUT)
    content = report_content(run)
    assert content.tiles[0][:2] == ("held-out AUC", f"{held_out.auc:.3f}")
    table = next(s for s in content.sections if s.title.startswith("Detection on")).tables[0]
    assert [row[0] for row in table.rows] == ["00", "02", "mean", "95 % interval of the mean", "clips that judged"]
    assert table.rows[-3][1] == f"{held_out.auc:.3f}"
    assert table.rows[-1][1] == held_out.clips.text
    assert held_out.text in content.summary
    assert held_out.clips.text in content.tiles[0][2]
    assert "add some" not in content.summary


def test_few_clips_are_warned_of(trained_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainable.scoring.clip_counts.FEW_CLIPS", 1000)
    content = report_content(load_run(trained_path))
    warning = " judge: the interval says little; add some."
    assert content.summary.startswith("The winner may or may not beat the yardsticks")
    assert warning in content.summary
    (said,) = next(s for s in content.sections if s.title.startswith("Detection on")).warnings
    assert said.startswith("Only ")
    assert said.endswith(warning)


def test_what_the_driver_counted_is_said_beside_the_budget(synthetic_run: RunResults) -> None:
    trials = synthetic_run.trials.head(3).assign(driver_bytes=[0, 2**30, 3 * 2**29])
    assert driver_text(trials.assign(driver_bytes=0), budget_bytes=2**31) == ""
    assert driver_text(trials, budget_bytes=None) == (
        "By the driver's count the largest process took 1.50 GiB; there was no budget."
    )
    assert driver_text(trials, budget_bytes=2**31).endswith("none of the 2 that were counted exceeded it.")
    assert driver_text(trials, budget_bytes=2**30).endswith(f"above it: trial {trials.index[2]}.")


def test_what_happened_to_memory_is_quoted_and_the_rest_counted(synthetic_run: RunResults) -> None:
    assert events_text(synthetic_run) == ""
    number, record = next((number, each) for number, each in synthetic_run.records.items() if each.epochs)
    first = dataclasses.replace(record.epochs[0], events=tuple(f"epoch 1: over the budget {i}" for i in range(12)))
    changed = dataclasses.replace(record, epochs=(first, *record.epochs[1:]))
    run = dataclasses.replace(synthetic_run, records={**synthetic_run.records, number: changed})
    text = events_text(run)
    assert text.startswith(f"What happened to memory: trial {number}, epoch 1: over the budget 0. trial {number},")
    assert text.endswith("over the budget 9. And 2 more.")


def test_a_winner_that_beats_no_yardstick_is_the_first_thing_said(trained_path: Path) -> None:
    """Any covariance finds the tone band of these anomalies. The run's summary is from before there were yardsticks."""
    run = load_run(trained_path)
    assert "best" not in run.summary
    content = report_content(run)
    assert content.summary.startswith("The winner does not beat the yardsticks, the best of which (")
    assert "2 configurations of a VQ-VAE" in content.summary
    assert content.tiles[2][:2] == ("best yardstick's AUC", "1.000")
    section = next(s for s in content.sections if s.title.startswith("Detection on"))
    rows = dict(section.tables[1].rows)
    assert rows["log-mel Mahalanobis"] == "1.000"
    assert set(rows) == {"this winner", "log-mel Mahalanobis", "TWFR + Gaussian", "PCA codes"}
    assert [float(auc) for auc in rows.values()] == sorted(map(float, rows.values()), reverse=True)
    assert "The winner does not beat the yardsticks" in section.text[1]


def test_what_the_search_measured_is_not_measured_again(
    trained_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shutil.copytree(trained_path, tmp_path / "run")
    run = load_run(path)
    measured = Comparison({"twfr": 0.5, "of_a_later_version": 0.75}, 0.9, (0.05, 0.2))
    best = {"trial": run.best_number, "epochs": run.best_epochs, "held_out_auc": 0.9, **measured.to_dict()}
    (path / "summary.json").write_text(json.dumps({"parts": 1, "best": best}))
    monkeypatch.setattr("analysis.winner_model.compare", lambda *_: pytest.fail("computed although saved"))
    content = report_content(load_run(path))
    assert content.summary.startswith("2 configurations of a VQ-VAE")
    section = next(s for s in content.sections if s.title.startswith("Detection on"))
    assert section.tables[1].rows == (
        ("this winner", "0.900"),
        ("of_a_later_version", "0.750"),
        ("TWFR + Gaussian", "0.500"),
    )
    assert section.text[1].startswith("The winner beats the yardsticks, the best of which (of_a_later_version)")


def test_the_detector_that_a_search_left_is_shown_with_its_pairs(trained_path: Path, tmp_path: Path) -> None:
    path = shutil.copytree(trained_path, tmp_path / "run")
    run = load_run(path)
    measured = Comparison({"twfr": 0.5}, 0.95, (0.05, 0.2))
    pair = Pair(trial=1, density="grid_neighbours", pseudo_auc=None, auc_by_family={}, validation_auc=0.9, rank=1.0)
    best = {"trial": run.best_number, "epochs": run.best_epochs, "held_out_auc": 0.9, **measured.to_dict()}
    best |= {"members": [asdict(pair)], "detector_held_out_auc": 0.95, "detector_held_out_interval": [0.9, 0.98]}
    best["held_out_clips"] = {"normal": 80, "anomalous": 60}
    (path / "summary.json").write_text(json.dumps({"parts": 1, "best": best}))
    content = report_content(load_run(path))
    assert (
        "The detector, the mean of 1 pair, reaches 0.950 (95 % interval 0.900 … 0.980; 80 normal, 60 anomalous clips)."
        in content.summary
    )
    section = next(s for s in content.sections if s.title == "The detector")
    assert str(path / "detector") in section.text[0]
    assert section.tables[0].rows == (("1", "grid neighbours", "0.900"),)
    rows = dict(next(s for s in content.sections if s.title.startswith("Detection on")).tables[1].rows)
    assert rows["the detector, the mean of 1 pair"] == "0.950"
    assert "its winner alone" in rows


def test_another_epoch_of_the_winner_is_measured_anew(trained_path: Path, tmp_path: Path) -> None:
    path = shutil.copytree(trained_path, tmp_path / "run")
    measured = Comparison({"twfr": 0.5}, 0.9, (0.05, 0.2))
    best = {"trial": load_run(path).best_number, "epochs": 1, "held_out_auc": 0.9, **measured.to_dict()}
    (path / "summary.json").write_text(json.dumps({"parts": 1, "best": best}))
    found = restore_winner(load_run(path)).yardsticks
    assert found is not None
    assert found != measured


def test_yardsticks_that_cannot_be_measured_are_said(trained_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.winner_model.compare", lambda *_: None)
    section = next(s for s in report_content(load_run(trained_path)).sections if s.title.startswith("Detection on"))
    assert section.tables[1].rows == (("Yardsticks could not be measured.", "–"),)


def test_a_checkpoint_that_is_gone_is_said(synthetic_run: RunResults) -> None:
    content = report_content(synthetic_run)
    section = next(s for s in content.sections if s.title.startswith("Detection on"))
    assert "could not be restored" in section.text[0]
    assert section.pictures == []


def test_a_search_that_has_not_ended_says_so_and_keeps_its_held_out_clips(trained_path: Path, tmp_path: Path) -> None:
    path = shutil.copytree(trained_path, tmp_path / "run")
    (path / "summary.json").unlink()
    run = load_run(path)
    content = report_content(run)
    section = next(s for s in content.sections if s.title.startswith("Detection on"))
    assert "Held-out clips are scored once" in section.text[0]
    assert section.pictures == section.tables == []
    assert "held-out" not in content.summary
    assert "yardstick" not in content.summary
    assert not [tile for tile in content.tiles if "held-out" in tile[0]]
    assert "2 of 2 trials ended, as of " in content.notes[0]
    assert next(s for s in content.sections if "codes" in s.title).pictures  # validation clips are open to all
    content = report_content(run, held_out=True)
    assert content.tiles[0][0] == "held-out AUC"


def test_the_summary_before_the_first_epoch(tmp_path: Path) -> None:
    with patch("os.fsync"):
        path = make_run(tmp_path / "run", trials=8, with_study=False)
    for file in path.glob("trials/*/epochs.jsonl"):
        file.unlink()
    assert summary_sentence(load_run(path), None).endswith(
        "0 were trained, 1 did not fit the memory budget. None has finished an epoch yet."
    )


def test_a_run_that_has_not_begun_to_train_has_a_page(tmp_path: Path) -> None:
    with patch("os.fsync"):
        path = make_run(tmp_path / "run", trials=8, with_study=False)
    for file in path.glob("trials/*/epochs.jsonl"):
        file.unlink()
    page = report.render(load_run(path))
    assert tuple(re.findall(r"<h2>(.*?)</h2>", page)) == SECTIONS
    words = re.sub(r'src="data:[^"]*"|\(nan\)', "", page)  # a trial's own reason may speak of nan
    assert not re.search(r"\bnan\b|\bNone\b", words.replace("None has finished", ""))


def test_names_from_outside_are_escaped(tmp_path: Path) -> None:
    with patch("os.fsync"):
        path = make_run(tmp_path / "run", trials=8, with_study=False)
    for file in path.glob("trials/*/epochs.jsonl"):  # nothing to draw: the words are what matters
        file.unlink()
    manifest = path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"name": "synthetic"', '"name": "<script>alert(1)</script>"'))
    page = report.render(load_run(path), with_model=False)
    assert "script" not in Page(page).tags


def test_the_command_writes_the_same_page_for_the_same_run(
    synthetic_page: str, synthetic_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "page.html"
    assert report.main([str(synthetic_path), "--output", str(output), "--no-model"]) == 0
    assert output.read_text(encoding="utf-8") == synthetic_page
    assert str(output) in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [output]


def test_a_missing_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert commandline.run(report.main, [str(tmp_path / "none")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "does not exist" in error


def test_a_page_that_cannot_be_written_is_one_line(synthetic_path: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be written"):
        report.write_report(synthetic_path, tmp_path / "no" / "page.html", with_model=False)


def test_a_winner_below_a_trial_that_did_not_complete_says_why_it_won(synthetic_run: RunResults) -> None:
    trials = synthetic_run.trials.copy()
    number = int(trials.index[trials["end"] == "pruned"][0])
    trials.loc[number, "final_auc"] = 0.999
    run = dataclasses.replace(synthetic_run, trials=trials)
    text = next(
        each for each in report_content(run, with_model=False).sections if each.title.startswith("What won")
    ).text
    ranked = run.ranked["final_auc"]
    assert f"{ranked.iloc[0] - ranked.iloc[1]:.3f} above the next (trial {run.ranked.index[1]})" in text[0]
    assert f"Trial {number} stood higher (0.999), pruned after " in text[0]
    assert "; the winner is chosen among trials that completed." in text[0]
    assert "-0." not in text[0]


def test_the_page_opens_with_how_many_faults_a_detector_finds(trained_path: Path, tmp_path: Path) -> None:
    path = shutil.copytree(trained_path, tmp_path / "run")
    run = load_run(path)
    pair = Pair(trial=1, density="grid_neighbours", pseudo_auc=None, auc_by_family={}, validation_auc=0.9, rank=1.0)
    best = {"trial": run.best_number, "epochs": run.best_epochs, "held_out_auc": 0.9}
    best |= Comparison({"twfr": 0.5}, 0.95, (0.05, 0.2)).to_dict() | {"members": [asdict(pair)]}
    best |= {"detector_held_out_auc": 0.95, "detector_held_out_interval": [0.9, 0.98]}
    best["faults_found"] = {"false_alarm_rate": 0.05, "share": 0.83, "interval": [0.71, 0.92]}
    (path / "summary.json").write_text(json.dumps({"parts": 1, "seconds": 480.0, "best": best}))
    content = report_content(load_run(path))
    assert content.headline == (
        "The search for grinder found a detector, the mean of 1 pair, that would find about 8 of 10 faults (7 to 9) at "
        "one false alarm in 20 normal recordings (AUC 0.950, 95 % interval 0.900 … 0.980; 0.5 is guessing, 1 is "
        "perfect), more than TWFR + Gaussian without a trained network (0.500); it cost 8 min on cpu for 2 "
        "configurations."
    )
    assert report.render(load_run(path)).index(html.escape(content.headline[:60])) < 6000  # before any picture
    names = [text.get_text() for text in content.overview[0].figure.axes[0].get_yticklabels()]
    assert set(names[:2]) == {"winner alone", "detector, 1 pair"}
    assert "TWFR + Gaussian" in names
    assert content.overview[1].figure.axes[0].get_title(loc="left") == "Progress of the search"


def test_the_headline_says_what_is_not_known(
    synthetic_run: RunResults, unlabelled_run: RunResults, trained_path: Path, tmp_path: Path
) -> None:
    assert "how well it detects on others is not known yet; it cost" in headline(synthetic_run, None)
    assert "could not be tried on a fault, since none is labelled" in headline(unlabelled_run, None)
    few = headline(load_run(trained_path), restore_winner(load_run(trained_path)).held_out())
    assert "on recordings that took no part in the search (AUC " in few  # too few normal clips to count faults
    with patch("os.fsync"):
        path = make_run(tmp_path / "run", trials=8, with_study=False)
    for file in path.glob("trials/*/epochs.jsonl"):
        file.unlink()
    assert headline(load_run(path), None).endswith("has found nothing yet: no trial has finished an epoch.")


def test_held_out_clips_wait_for_a_search_that_ended_before_any_trial(trained_path: Path, tmp_path: Path) -> None:
    path = shutil.copytree(trained_path, tmp_path / "run")
    for file in path.glob("trials/*/end.json"):
        file.unlink()
    (path / "summary.json").write_text(json.dumps({"parts": 1, "stop_reason": "the time limit of 60 s was reached"}))
    winner = restore_winner(load_run(path))
    assert winner.held_out() is None
    assert winner.missing(Split.HELD_OUT).startswith("No trial completed before the time limit of 60 s was reached.")
    assert restore_winner(load_run(path), held_out=True).held_out() is not None


def test_pictures_lie_in_pairs_and_the_last_of_an_odd_number_alone(synthetic_run: RunResults) -> None:
    normal, wide = search_progress(synthetic_run.trials), asha_rungs(synthetic_run.trials, 27)
    none = Picture(message_figure("title", "why"), "")
    first, second, third = (Picture(normal, name) for name in "abc")
    broad = Picture(wide, "wide", wide=True)
    assert in_rows([first, broad, none, second, third]) == [(first, second), (broad,), (third,)]


def test_maps_say_whose_surprise_they_show(trained_path: Path, unlabelled_path: Path) -> None:
    view = restore_winner(load_run(trained_path)).view
    assert view is not None
    view.trial.config = view.config.replace(density="fused")
    assert view.map_words == "grid neighbours, one part of fused, whose score counts but is of whole clips only"
    (text,) = next(
        s for s in report_content(load_run(unlabelled_path)).sections if s.title == "What the codes say"
    ).text
    assert "surprises a density model: " in text


@pytest.mark.long
def test_a_thousand_trials_stay_below_five_megabytes(tmp_path: Path) -> None:
    with patch("os.fsync"):
        path = make_run(tmp_path / "run", trials=1000)
    report.write_report(path, tmp_path / "report.html", with_model=False)
    assert (tmp_path / "report.html").stat().st_size < 5_000_000


def section_of(run: RunResults, title: str, **how: bool) -> Section:
    return next(each for each in report_content(run, **how).sections if each.title.startswith(title))


def test_a_run_without_labels_says_what_is_not_known(unlabelled_path: Path) -> None:
    run = load_run(unlabelled_path)
    content = report_content(run)
    assert "reached a pseudo-AUC of" in content.summary
    assert content.summary.endswith("No anomaly is labelled, so nobody knows yet how many faults are heard.")
    assert content.tiles[0] == ("held-out AUC", "unknown", "no anomaly is labelled")
    assert content.tiles[1][0] == "pseudo-AUC"
    held_out = next(each for each in content.sections if each.title.startswith("Detection on"))
    assert "--objective both" in held_out.text[0]
    assert held_out.tables == held_out.pictures == []
    codes = next(each for each in content.sections if each.title == "What the codes say")
    assert [bool(picture.message) for picture in codes.pictures] == [False, True, False, False, False, False]
    assert "Spectrogram and code surprise: pseudo-anomaly (roughness)" in codes.pictures[2].caption


def test_judged_without_anomalies_is_a_section(unlabelled_run: RunResults, both_run: RunResults) -> None:
    for run in (unlabelled_run, both_run):
        section = section_of(run, "Judged without anomalies", with_model=False)
        assert section.warnings[0].startswith("Fewer than 8 normal clips")
        assert [table.columns[0] for table in section.tables] == ["family", "trial"]
        (picture,) = section.pictures
        assert not picture.message
        page = html.unescape(report.render(run, with_model=False))
        assert page.count('<p class="note">') == len(section.warnings)
        assert f"averages {len(members(run))} pairs of a trial and a density model" in page
        words = re.sub(r'src="data:[^"]*"|\(nan\)', "", page)
        assert not re.search(r"\bnan\b|\bNone\b", words)


def test_words_for_what_judged(unlabelled_run: RunResults, both_run: RunResults) -> None:
    page = re.sub(r'src="data:[^"]*"', "", html.unescape(report.render(unlabelled_run, with_model=False)))
    assert "has the highest pseudo-AUC after its last epoch" in page
    assert "no held-out AUC corrects it" in page
    assert "validation AUC" not in page
    assert "Validation AUC" not in page
    won = section_of(both_run, "What won", with_model=False)
    assert "has the highest mean of validation AUC and pseudo-AUC after" in won.text[0]
    assert "so trust the held-out AUC" in won.text[0]


def test_a_run_without_labels_that_has_not_begun_to_train_has_a_page(tmp_path: Path) -> None:
    with patch("os.fsync"):
        path = make_run(tmp_path / "run", trials=8, with_study=False, objective=Objective.NORMAL_ONLY, labelled=False)
    for file in path.glob("trials/*/e*.json*"):
        file.unlink()
    section = section_of(load_run(path), "Judged without anomalies")
    assert "No trial with a pseudo-AUC has trained long enough yet." in section.pictures[0].message
    assert [table.columns[0] for table in section.tables] == ["family"]
