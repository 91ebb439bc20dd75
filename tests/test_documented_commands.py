"""Every command that README.md, CONTRIBUTING.md and docs/ print is run, or listed here with the reason why not.

A document's commands run in their order in a folder of its own, which holds what documents suppose a reader to have
(see `tests/reader.py`). Flags that make a command cheap are *appended* to it; of what it prints only sizes are
overridden.
"""

import glob
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import warnings
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path

import pytest

from tests.reader import DOCUMENTS, ROOT, Command, appended, inline, own_folder, reader, run_module, shown
from trainable.commands import COMMANDS

__all__ = ["own_folder", "reader"]  # fixtures


NOT_RUN = {
    r"python -m search\.run .*--address auto .*/mnt/shared": "on Ray, in tests/test_documented_services.py",
    r"python -m search\.run .*s3://.*endpoint_override": "in tests/test_documented_storage.py",
    r"python -m search\.run .*s3://": "needs Amazon's object store; another's is in tests/test_documented_storage.py",
    r"python -m search\.run .*postgresql://": "in tests/test_documented_storage.py",
    r"python -m search\.run .*--mlflow ": "in tests/search_tests/listeners_tests/test_mlflow.py",
    r"python -m search\.run .*--wandb ": "in tests/search_tests/listeners_tests/test_wandb.py",
    r"deploy/": "in tests/test_deploy.py",
    r"(docker|sbatch|sudo|kubectl) ": "needs Docker, Slurm, systemd, Kubernetes; its files are in tests/test_deploy.py",
    r"python -m benchmarks\.": "takes minutes, and some a GPU; short forms in tests/test_documented_services.py",
    r"ray (get-auth-token --generate|start --head)$": "in tests/test_documented_services.py",
    r"ray (get-auth-token|start|up|down|dashboard|rsync-up|rsync-down|job submit) ": "needs other machines, or stays",
    r"pip install ": "installs",
    r"(tensorboard|optuna-dashboard) ": "in tests/test_documented_services.py, until it is stopped",
}
"""Commands that are not run here, and why; their flags are checked, see `check_flags`."""


def reason_not_to_run(command: Command) -> str | None:
    return next((reason for pattern, reason in NOT_RUN.items() if re.match(pattern, command.text)), None)


# ---- how commands are run ------------------------------------------------------------------------------------------


def run_python(command: Command) -> None:
    words = shlex.split(f"{command.text} {appended(command.text)}")
    run_module([name for word in words[2:] for name in (sorted(glob.glob(word)) if "*" in word else [word])])


def run_shell(command: Command, folder: Path) -> None:
    """In a shell where ``python`` is this interpreter."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command.text, shell=True, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    assert done.stdout.strip(), f"{command}: printed nothing"


def as_module(command: Command) -> Command:
    """``vqad search …`` as ``python -m search.run …``; any other command as it is."""
    program, _, rest = command.text.partition(" ")
    name, _, flags = rest.partition(" ")
    return Command(command.document, f"python -m {COMMANDS[name].module} {flags}") if program == "vqad" else command


def run(command: Command, folder: Path) -> None:
    """Runs a command, or checks what can be checked of it; fails if it is of no known kind."""
    command = as_module(command)
    words = shlex.split(command.text)
    if command.text == ". .venv/bin/activate":
        assert "VENV := .venv\n" in (ROOT / "Makefile").read_text()
    elif words[0] == "make":
        subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, check=True, capture_output=True, timeout=300)
    elif reason_not_to_run(command) is not None:
        check_flags(command, words)
    elif words[0] == "export":
        assert all(re.fullmatch(r"[A-Z_]+=[\w/,]+", word) for word in words[1:])
    elif words[0] == "grep":
        run_shell(command, ROOT)
    elif "|" in words or re.match(r"python \S+\.py ", command.text):
        run_shell(command, folder)
    elif words[:2] == ["python", "-m"]:
        run_python(command)
        for made in re.findall(r"--(?:output|export) (\S+)", command.text):
            assert Path(made).exists(), f"{command}: wrote no {made}"
    else:
        pytest.fail(f"{command}: of no kind that this test knows; add it to one")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_work_in_the_order_of_their_document(document: Path, own_folder: Path) -> None:
    commands = shown(document)
    for command in commands:
        # What a document makes itself is not there before.
        for made in re.findall(r"--output (\S+)", command.text):
            shutil.rmtree(own_folder / made, ignore_errors=True)
    for command in commands:
        try:
            run(command, own_folder)
        except (Exception, SystemExit) as error:
            raise AssertionError(f"{command}: {type(error).__name__}: {error}") from error


@pytest.mark.parametrize("command", [each for path in DOCUMENTS for each in inline(path)], ids=str)
def test_commands_within_text_have_real_flags(command: Command) -> None:
    check_python_flags(shlex.split(command.text))


# ---- what is checked of commands that are not run ------------------------------------------------------------------


def check_flags(command: Command, words: list[str]) -> None:
    if words[0] == "python":
        check_python_flags(words)
    elif words[0] == "ray":
        check_ray(words[1:])
    elif words[0] == "pip":
        extras = re.findall(r"\.\[(\w+)\]", command.text)
        known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert set(extras) <= set(known), f"{command}: no such extra"
    elif any("deploy/" in word for word in words) or words[0] in ("docker", "sudo"):
        check_deployment(words)
    elif words[0] == "tensorboard":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of what TensorBoard brings along
            from tensorboard import program

            board = program.TensorBoard()
            board.configure(argv=tuple(words))
        assert Path(board.flags.logdir).is_dir()
    elif words[0] == "optuna-dashboard":
        import optuna

        assert optuna.get_all_study_summaries(words[1]), f"{command}: no study there"
    else:
        pytest.fail(f"{command}: nothing is checked of it")


def check_deployment(words: list[str]) -> None:
    """Files are there, and the search within has real flags."""
    for word in words:
        assert not word.startswith("deploy/") or (ROOT / word).is_file(), f"there is no {word}"
    if "python" in words:
        check_python_flags(words[words.index("python") :])
    if words[0].startswith("deploy/"):
        check_python_flags(["python", "-m", "search.run", "--resume", *words[1:]])


def check_python_flags(words: list[str]) -> None:
    """The flags are those of the module's parser, and a search's go together."""
    module = words[2]
    if module.startswith("benchmarks."):
        page = io.StringIO()
        with redirect_stdout(page), pytest.raises(SystemExit) as ended:
            import_module(module).main(["--help"])
        assert ended.value.code in (0, None)
        for flag in (word for word in words if word.startswith("--")):
            assert flag in page.getvalue(), f"{module} has no {flag}"
        return
    place = {"analysis.notebooks": "analysis.notebooks.__main__", "search.run": "search.flags"}.get(module, module)
    arguments = import_module(place).build_parser().parse_args(words[3:])
    if module == "search.run" and arguments.space:
        from search.flags import new_options
        from spaces.loader import load_space

        assert new_options(arguments, load_space(arguments.space)).num_samples >= 1


def check_ray(words: list[str]) -> None:
    """Ray's own command line accepts the flags."""
    import click
    from ray.scripts.scripts import cli

    group: click.Command = cli
    context = click.Context(group)
    while isinstance(group, click.Group):
        name = words.pop(0)
        found = group.get_command(context, name)
        assert found is not None, f"ray has no command {name}"
        group = found
    group.make_context(group.name, list(words))


def test_the_cluster_file_is_one_that_ray_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    import yaml
    from ray.autoscaler._private.util import prepare_config, validate_config

    monkeypatch.chdir(ROOT)
    config = prepare_config(yaml.safe_load((ROOT / "docs/cluster.yaml").read_text()))
    validate_config(config)
    assert config["max_workers"] == config["available_node_types"]["worker"]["min_workers"], "no autoscaling"


# ---- other things that documents show ------------------------------------------------------------------------------


def test_the_format_of_spaces_is_a_space() -> None:
    from spaces.loader import space_from_text

    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/spaces.md").read_text(), flags=re.DOTALL)
    space = space_from_text(text)
    assert {"top_k_share", "commitment_warmup_start", "stride"} <= set(space.names)


def test_scripts_run(own_folder: Path) -> None:
    (script,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/results.md").read_text(), flags=re.DOTALL)
    exec(compile(script, "docs/results.md", "exec"), {})
    assert (own_folder / "memory.svg").stat().st_size > 1000


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_the_architecture_names_every_module() -> None:
    """In the section of its package, by its name or by the folder that holds it."""
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^### `(\w+)/`(.*?)(?=^### |\Z)", text, re.DOTALL | re.MULTILINE))
    assert sections.keys() == {"trainable", "spaces", "search", "analysis"}
    for package, section in sections.items():
        named = set(re.findall(r"`([\w/]+)`", section))
        for path in (ROOT / package).rglob("*.py"):
            relative = path.relative_to(ROOT / package)
            folders = {f"{parent}/" for parent in relative.parents if parent.parts}
            if path.name != "__init__.py":
                assert {relative.stem, *folders} & named, f"docs/architecture.md does not name {package}/{relative}"
