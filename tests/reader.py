"""The reader that documents suppose: a folder with recordings, a space, a finished search; how commands run there."""

import re
import runpy
import shlex
import shutil
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from trainable.data.embedded import EmbeddedClip, embedded_sound
from trainable.registry import LOSS_TERMS

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

TINY_DATA = "--data-root recordings --machine-type fan"
"""The reader's recordings instead of the embedded machines, which take longer to make than all of these tests."""
CHEAP = {
    "search.run --resume": "--local --quiet --num-samples 3",
    "search.run": f"--local --quiet --num-samples 1 --max-epochs 1 {TINY_DATA}",
    "search.plan": f"--samples 4 --show 2 {TINY_DATA}",
    "search.plan --config": TINY_DATA,
    "trainable.train": f"--epochs 1 {TINY_DATA}",
    "trainable.train --help": "",
    "analysis.notebooks": "--only memory",
    "analysis.dcase_table": "--epochs 1 --quiet",
    "analysis.report": "",
    "analysis.runs": "",
    "analysis.best": "",
    "trainable.recordings": "",
    "trainable.score": "",
}
"""What is appended to ``python -m MODULE …``; the longest key whose words all occur decides."""
SIZES = {"--num-samples", "--epochs"}
"""Flags that say how much: appended to a command that prints them too. Others a command prints keep what it says."""
SHARED_FOLDER = "/mnt/shared/checkpoints"
"""There is none here: ``--storage-path shared`` is appended to a command that names it."""
SPACE = """
parameters:
  num_embeddings: {choices: [4, 8]}
fixed: {width: 0.25, latent_dim: 4, batch_size: 8, n_patches: 1, stride: 32, head_hidden: 8, density: counts}
search: {num_samples: 2, max_epochs: 2, grace_period: 2}
"""
SECONDS = 2.2
"""69 frames: a patch has 64."""


def write_clip(folder: Path, clip: EmbeddedClip) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    sound = embedded_sound("fan", clip)[: int(16_000 * SECONDS)]
    soundfile.write(folder / clip.name, sound.astype(np.float32), 16_000)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with recordings of a fan, a space, and a small finished search of it under two names."""
    folder = tmp_path_factory.mktemp("reader")
    for machine_id in ("00", "02"):
        for number in range(8):
            write_clip(folder / "recordings/fan/train", EmbeddedClip(machine_id, "train", 0, number))
        for number in range(4):
            for label in (0, 1):
                write_clip(folder / "recordings/fan/test", EmbeddedClip(machine_id, "test", label, number))
    for path in (folder / "recordings/fan/test").iterdir():
        shutil.copy(path, folder / "recordings")
    for copy in ("data/fan", "recordings/pump"):
        shutil.copytree(folder / "recordings/fan", folder / copy)
    for path in (folder / "recordings/fan/test").iterdir():
        (folder / "my_folder/heard").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / "my_folder/heard")
    listed = [f"{path},{path.name.split('_')[0]},{path.parent.name}" for path in folder.glob("recordings/fan/*/*.wav")]
    (folder / "fan.csv").write_text("\n".join(["path,label,split", *listed]) + "\n")
    (folder / "my_space.yaml").write_text(SPACE)
    (folder / "options.yaml").write_text("space: my_space.yaml\nmax-epochs: 2\nuse-amp: false\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_module(
            [
                "search.run",
                "--space",
                "my_space.yaml",
                "--output",
                "runs/first",
                "--local",
                "--quiet",
                *TINY_DATA.split(),
            ]
        )
        shutil.copytree("runs/first", "runs/fan")
        shutil.copy("runs/first/best.yaml", "best.yaml")
        yield folder


@pytest.fixture
def own_folder(reader: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it for one document."""
    folder = tmp_path / "reader"
    shutil.copytree(reader, folder)
    monkeypatch.chdir(folder)
    return folder


def run_module(words: list[str]) -> None:
    """``python -m words…`` in this interpreter, so that torch is imported once and not by each command."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(sys, "argv", words)
        patch.setattr(LOSS_TERMS, "_parts", dict(LOSS_TERMS._parts))  # what a command registers ends with it
        # runpy: the module was imported before, and is now run a second time as __main__.
        warnings.filterwarnings("ignore", message=".*found in sys.modules", category=RuntimeWarning)
        try:
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        except SystemExit as end:
            status = end.code
        else:
            status = None
    assert status in (None, 0), f"{shlex.join(words)}: exit status {status}"


@dataclass(frozen=True)
class Command:
    """A line of a document."""

    document: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}: {self.text}"


def shown(document: Path) -> list[Command]:
    """The commands of its ``sh`` blocks, comments left out."""
    blocks = re.findall(r"```sh\n(.*?)```", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = [re.sub(r"(^|\s)#.*", "", line).strip() for block in blocks for line in block.splitlines()]
    return [Command(document.name, line) for line in lines if line]


def inline(document: Path) -> list[Command]:
    """The commands within its text, whose flags are checked."""
    text = document.read_text(encoding="utf-8")
    return [Command(document.name, line) for line in re.findall(r"`(python -m [^`…]+)`", text)]


def appended(text: str) -> str:
    """The flags that make a ``python -m`` command cheap. Raises StopIteration for a module that no key names."""
    words = text.split()
    key = next(key for key in sorted(CHEAP, key=len, reverse=True) if set(key.split()) <= set(words))
    printed = {word.replace("_", "-") for word in words} - SIZES
    flags = re.findall(r"--[\w-]+(?: [^-]\S*)?", CHEAP[key])
    chosen = [flag for flag in flags if flag.split()[0] not in printed]
    return " ".join([*chosen, *(["--storage-path shared"] if SHARED_FOLDER in text else [])])
