"""The notebooks: executed on a real small search and on a synthetic one; thin, and free of this machine's paths."""

import ast
import os
from pathlib import Path

import nbformat
import pytest

from analysis import notebooks
from analysis.notebooks import __main__ as command
from analysis.results import RunResults
from analysis.style import Message
from analysis.winner_model import restore_winner
from trainable import commandline
from trainable.errors import RunError

pytestmark = pytest.mark.xdist_group("notebooks")  # one process executes them, once


@pytest.fixture(autouse=True)
def _kernels_without_debugger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")


@pytest.fixture(scope="module")
def executed(trained_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, nbformat.NotebookNode]:
    """All four on the trained run, by the command."""
    target = tmp_path_factory.mktemp("notebooks") / "executed"
    assert command.main([str(trained_path), "--output", str(target)]) == 0
    assert sorted(path.name for path in target.iterdir()) == sorted(f"{name}.ipynb" for name in notebooks.NAMES)
    return {name: nbformat.read(target / f"{name}.ipynb", as_version=4) for name in notebooks.NAMES}


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def pictures(notebook: nbformat.NotebookNode) -> list[str]:
    """Figures as text: their kind and size."""
    return [o.data["text/plain"] for o in outputs(notebook) if "image/png" in o.get("data", {})]


@pytest.mark.parametrize(
    ("name", "least"), [("best_configs", 7), ("search_behaviour", 6), ("memory", 4), ("codebook", 6)]
)
def test_a_notebook_shows_its_pictures(executed: dict[str, nbformat.NotebookNode], name: str, least: int) -> None:
    notebook = executed[name]
    assert len(pictures(notebook)) == least
    assert [o.text for o in outputs(notebook) if o.get("name") == "stderr"] == []
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
    if name in ("best_configs", "codebook"):  # the model was restored: no message stands in a picture's place
        assert not [text for text in pictures(notebook) if "<Message" in text]


def test_tables_are_tables(executed: dict[str, nbformat.NotebookNode]) -> None:
    tables = [o.data["text/html"] for o in outputs(executed["best_configs"]) if "text/html" in o.get("data", {})]
    assert len(tables) == 4
    assert "validation AUC" in tables[0]
    assert "95 % interval of the mean" in tables[2]
    assert "python -m analysis.best" in tables[3]


def test_search_behaviour_of_a_search_with_a_study(synthetic_path: Path, tmp_path: Path) -> None:
    assert command.main([str(synthetic_path), "--only", "search_behaviour", "--output", str(tmp_path)]) == 0
    notebook = nbformat.read(tmp_path / "search_behaviour.ipynb", as_version=4)
    assert not [text for text in pictures(notebook) if "<Message" in text]
    assert [path.name for path in tmp_path.iterdir()] == ["search_behaviour.ipynb"]


def test_a_winner_without_a_checkpoint_leaves_messages(synthetic_run: RunResults) -> None:
    winner = restore_winner(synthetic_run)
    assert winner.view is None
    figures = [winner.score_histograms(), winner.roc(), winner.codebook_usage(), winner.anomaly_codes()]
    figures += [figure for _, figure in winner.surprise(anomalies=3)]
    assert len(figures) == 5
    for figure in figures:
        assert isinstance(figure, Message)
        assert "has no checkpoint" in figure.message
    assert "has no checkpoint" in winner.held_out_table().rows[0][0]


def test_a_failing_cell_is_one_line_and_leaves_no_file(
    synthetic_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("raise ValueError('no such thing')")])
    (tmp_path / "memory.ipynb").write_text(nbformat.writes(broken))
    monkeypatch.setattr("analysis.notebooks.execute.FOLDER", tmp_path)
    arguments = [str(synthetic_path), "--only", "memory", "--output", str(tmp_path / "out")]
    assert commandline.run(command.main, arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "memory.ipynb failed" in error
    assert "ValueError: no such thing" in error
    assert list((tmp_path / "out").iterdir()) == []


def test_a_mistyped_path_is_said_before_a_kernel_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert commandline.run(command.main, [str(tmp_path / "none")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_the_run_is_the_named_one_or_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AD_RUN", "somewhere/run")
    assert notebooks.chosen_run() == "somewhere/run"
    monkeypatch.delenv("AD_RUN")
    for index, name in enumerate(("new", "old")):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
        os.utime(folder / "manifest.json", (1000 - index, 1000 - index))
    (tmp_path / "analysis" / "notebooks").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert notebooks.chosen_run() == os.path.join("runs", "new")
    monkeypatch.chdir(tmp_path / "analysis" / "notebooks")
    assert notebooks.chosen_run() == os.path.join("..", "..", "runs", "new")


def test_without_a_run_it_is_said_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AD_RUN", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match=r"python -m search\.run"):
        notebooks.chosen_run()


@pytest.mark.parametrize("name", notebooks.NAMES)
def test_notebooks_are_thin(name: str) -> None:
    """Imports, calls and shown values; no function, class or arithmetic of their own."""
    notebook = nbformat.read(notebooks.FOLDER / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert "RUN = chosen_run()" in cells[0]
    computing = (ast.FunctionDef, ast.ClassDef, ast.BinOp, ast.While, ast.Lambda, ast.ListComp)
    for source in cells:
        tree = ast.parse("\n".join(line for line in source.splitlines() if not line.startswith("%")))
        assert not [node for node in ast.walk(tree) if isinstance(node, computing)]


@pytest.mark.parametrize("name", notebooks.NAMES)
def test_what_ships_holds_no_path_of_a_machine(name: str) -> None:
    text = (notebooks.FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
    for word in ("/home/", "/root/", "/tmp/", "/Users/", "C:\\\\", "site-packages", "Traceback"):
        assert word not in text
    assert len(text) < 1_500_000


@pytest.mark.parametrize("name", ["best_configs", "codebook"])
def test_a_run_without_labels_executes(unlabelled_path: Path, tmp_path: Path, name: str) -> None:
    assert command.main([str(unlabelled_path), "--only", name, "--output", str(tmp_path)]) == 0
    notebook = nbformat.read(tmp_path / f"{name}.ipynb", as_version=4)
    shown = pictures(notebook)
    assert sum("<Message" in text for text in shown) == {"best_configs": 2, "codebook": 1}[name]
    assert len(shown) == {"best_configs": 7, "codebook": 6}[name]
    words = " ".join(str(output) for output in outputs(notebook))
    assert "No anomaly is labelled" in words or name == "codebook"
    assert "is no AUC on real faults" in words or name == "codebook"


@pytest.mark.parametrize("name", ["search_behaviour", "memory"])
def test_the_other_notebooks_name_the_measure(name: str) -> None:
    notebook = nbformat.read(notebooks.FOLDER / f"{name}.ipynb", as_version=4)
    drawing = [c.source for c in notebook.cells if "search_progress(" in c.source or "auc_against" in c.source]
    assert any("measure=run.measure" in source for source in drawing)
