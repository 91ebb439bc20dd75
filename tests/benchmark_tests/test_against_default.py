"""The winner of a run beside its space's default: a tiny search, and its arithmetic by hand."""

import re
from pathlib import Path

import pytest

from benchmarks import against_default
from benchmarks.against_default import MEAN, lines
from search.run import main as search
from tests.analysis_tests.trained import write_recordings
from tests.search_tests.test_run import SPACE
from trainable.commandline import run
from trainable.data.clips import Split


def test_winner_and_default_are_trained_with_the_same_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_recordings(tmp_path / "machines", machine_type="press", train=6, test=4)
    (tmp_path / "space.yaml").write_text(SPACE)
    flags = ["--data-root", str(root), "--machine-type", "press", "--num-samples", "1", "--max-epochs", "1"]
    output = tmp_path / "run"
    search(["--space", str(tmp_path / "space.yaml"), *flags, "--local", "--quiet", "--output", str(output)])
    capsys.readouterr()
    trained = []
    measure = against_default.measure
    monkeypatch.setattr(
        against_default, "measure", lambda config, *rest: trained.append(config) or measure(config, *rest)
    )
    assert run(against_default.main, [str(output), "--seeds", "2"]) == 0
    shown = capsys.readouterr().out
    assert [config.seed for config in trained] == [0, 0, 1, 1]
    assert {(config.phase.epochs, config.model.width) for config in trained} == {(1, 0.25)}, "as the space fixes it"
    assert trained[0].quantizer.num_embeddings == 256, "the project's default"
    assert trained[1].quantizer.num_embeddings in (4, 8), "the winner's"
    assert (
        len(re.findall(r"^seed [01]  (?:default|winner )  validation [01]\.\d+  held_out [01]\.\d+$", shown, re.M)) == 4
    )
    assert re.search(r"^held_out +00 +default [01]\.\d+  winner [01]\.\d+  difference [+-]\d\.\d+ ± ", shown, re.M)


def test_differences_are_paired_by_seed() -> None:
    """Differences 0.1 and 0.3: mean 0.2, s = 0.1414, t(0.975, 1) = 12.706, so 0.2 ± 12.706 · 0.1."""
    table = {
        name: {split: {MEAN: values} for split in (Split.VALIDATION, Split.HELD_OUT)}
        for name, values in (("default", [0.5, 0.6]), ("winner", [0.6, 0.9]))
    }
    (line, _) = lines(table)
    assert line.endswith("default 0.550  winner 0.750  difference +0.200 ± 1.271")


@pytest.mark.parametrize(
    ("arguments", "message"), [(["/nowhere/run"], "/nowhere/run"), (["x", "--seeds", "0"], "--seeds is 0")]
)
def test_what_cannot_be_compared_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(against_default.main, arguments) == 2
    assert message in capsys.readouterr().err
