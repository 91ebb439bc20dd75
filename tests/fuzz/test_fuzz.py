"""Whatever a file holds, reading it ends in what was asked for or in one clear sentence, and it ends.

The short form runs with every test run; ``make test-long`` runs the full one. Every input is made of a seed that the
failure names, so it can be made again.
"""

import dataclasses
import hashlib
import io
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml

from spaces.loader import builtin_spaces, load_space, space_from_text
from spaces.space import Space
from tests.fuzz import resumed
from tests.fuzz.mutation import mutated
from tests.trainable_tests.recording_trees import mel_clip, tone
from tests.trainable_tests.test_record import MANIFEST, OUTCOME, START, report
from trainable.config import DataConfig, FrontEndConfig, TrialConfig
from trainable.data.normalise import load_stats
from trainable.data.readers import read_features
from trainable.durable import write_json
from trainable.errors import ProjectError
from trainable.record import RunFolder, RunManifest, TrialRecord
from trainable.train import read_config_file
from trainable.training.checkpoint import read_checkpoint

SHORT, FULL = 120, 4_000
"""Inputs of each of the targets below: together some hundreds, and more than 10,000."""
JSON_WORDS = (
    b"null",
    b"NaN",
    b"1e999",
    b"-1",
    b'"',
    b"[]",
    b"{}",
    b"[[[[",
    b"true",
    b"\\u0000",
    b"\n",
    b"\xff",
    b"9" * 99,
)
FRONT_END = FrontEndConfig()


@dataclass(frozen=True)
class Target:
    """Something that reads files."""

    good: Sequence[bytes]
    """What is mutated."""
    words: Sequence[bytes]
    read: Callable[[bytes, Path], Any]
    """Reads content, by way of a folder of its own."""
    right: Callable[[Any], bool]
    """Whether what was accepted is what a reader promises."""
    cost: int = 1
    """How many inputs of a cheap target take as long as one of this: so many times fewer are tried."""
    lenient: bool = False
    """Whether damage is lived with rather than refused."""


def spaces() -> Target:
    def read(content: bytes, folder: Path) -> Space:
        path = folder / "space.yaml"
        path.write_bytes(content)
        space = load_space(str(path))
        # What is accepted can be searched: its smallest corner is a configuration.
        space.default_config(epochs=3)
        assert space.digest == space_from_text(space.text, "again").digest
        return space

    texts = [load_space(name).text.encode() for name in builtin_spaces()]
    words = "low: |high: |log: true|step: |choices: [|when: {|above: |.nan|.inf|-1|1e3|~|!!int |&a |*a|<<: "
    words += "|\n|  |: |- |{|]|#|'|\""
    extra = (
        "\t",
        "---\n",
        "%YAML 1.1\n",
        "\0",
        "\ufeff",
        "0x" + "F" * 999,
        "9" * 999,
        "1:30",
        "[" * 300,
        "!" * 99,
        "? ",
    )
    return Target(texts, [word.encode() for word in (*words.split("|"), *extra)], read, lambda space: bool(space.names))


def configurations() -> Target:
    """A search's best.yaml, as the train command takes it."""

    def read(content: bytes, folder: Path) -> TrialConfig:
        (folder / "best.yaml").write_bytes(content)
        flat, data = read_config_file(folder / "best.yaml")
        DataConfig.from_dict(data)
        return TrialConfig.from_flat(flat)

    flat = yaml.safe_dump({"config": TrialConfig().flat(), "data": DataConfig().to_dict()}).encode()
    bomb = b"&a [" + b"&b [x, x], " + b"*b, " * 9 + b"]"
    words = (
        b"!!bool x",
        b"!!int ''",
        b"9" * 5000,
        b"1" + b"0" * 400,
        b"0x" + b"F" * 5000,
        b"3: 4\n",
        b"[[[[",
        b".nan",
        bomb,
    )
    return Target([flat], words, read, lambda config: config == TrialConfig.from_flat(config.flat()))


def features(suffix: str, good: Sequence[bytes], words: Sequence[bytes]) -> Target:
    def read(content: bytes, folder: Path) -> np.ndarray:
        path = folder / f"normal_id_00_00000000{suffix}"
        path.write_bytes(content)
        return read_features(path, FRONT_END)

    def right(array: np.ndarray) -> bool:
        return array.dtype == np.float32 and array.ndim == 2 and array.shape[1] == 64 and bool(np.isfinite(array).all())

    return Target(good, words, read, right)


def npy() -> Target:
    words = (
        b"'descr': '<f4'",
        b"'<f8'",
        b"'|O'",
        b"'>f2'",
        b"(64, 80)",
        b"(64,)",
        b"-1",
        b"True",
        b"[('a', '<f4')]",
        b"((((",
    )
    return features(".npy", [_bytes(np.save, mel_clip(1)), _bytes(np.save, mel_clip(2).T.astype(">f8"))], words)


def wav() -> Target:
    def written(**options: Any) -> bytes:
        buffer = io.BytesIO()
        soundfile.write(buffer, tone(1, seconds=0.1), 16_000, **{"format": "WAV", **options})
        return buffer.getvalue()

    good = [
        written(),
        written(subtype="FLOAT"),
        written(subtype="MS_ADPCM"),
        written(format="WAVEX"),
        written(subtype="ULAW"),
    ]
    return features(
        ".wav", good, (b"RIFF", b"WAVE", b"fmt ", b"data", b"LIST", b"RF64", b"fLaC", b"FORM", b"OggS", b"fact")
    )


def checkpoints() -> Target:
    def read(content: bytes, folder: Path) -> dict[str, Any]:
        magic = b"vqvae-ad checkpoint 1\n"
        (folder / "one.ckpt").write_bytes(magic + hashlib.sha256(content).digest() + content)
        return read_checkpoint(folder / "one.ckpt")

    state = {"weights": torch.arange(9.0), "epoch": 3, "names": ["a"], "nested": {"loss": 0.5}}
    good = [_bytes(lambda file, value: torch.save(value, file), state)]
    return Target(
        good,
        (b"PK\x03\x04", b"cos\nsystem\n", b"data.pkl", b"R.", b"q\x00", b"storage"),
        read,
        lambda value: isinstance(value, dict),
    )


def unsigned_checkpoints() -> Target:
    def read(content: bytes, folder: Path) -> dict[str, Any]:
        (folder / "one.ckpt").write_bytes(content)
        return read_checkpoint(folder / "one.ckpt")

    payload = _bytes(lambda file, value: torch.save(value, file), {"epoch": 3})
    good = [b"vqvae-ad checkpoint 1\n" + hashlib.sha256(payload).digest() + payload]
    return Target(good, (), read, lambda value: value == {"epoch": 3})


def statistics() -> Target:
    def read(content: bytes, folder: Path) -> Any:
        (folder / "stats.pt").write_bytes(content)
        return load_stats(folder / "stats.pt", "pump")

    good = [_bytes(lambda file, value: torch.save(value, file), {3: (torch.zeros(64), torch.ones(64))})]
    return Target(good, (b"PK\x03\x04", b"cos\nsystem\n", b"R."), read, lambda stats: bool((stats.std_F > 0).all()))


def manifests() -> Target:
    def read(content: bytes, folder: Path) -> RunManifest:
        (folder / "manifest.json").write_bytes(content)
        return RunFolder(folder).read_manifest()

    good = [json.dumps(dataclasses.asdict(MANIFEST)).encode()]
    return Target(good, JSON_WORDS, read, lambda manifest: isinstance(manifest.seed, int))


def trials() -> Target:
    """All three files of a trial, joined by a line that no mutation knows; one of them is changed at a time."""
    files = ("trial.json", "epochs.jsonl", "end.json")
    divider = b"\n=====\n"

    def read(content: bytes, folder: Path) -> tuple[TrialRecord, ...]:
        run = RunFolder(folder)
        write_json(run.trial_path(7) / "trial.json", START.to_dict())
        for name, part in zip(files, content.split(divider), strict=False):
            (run.trial_path(7) / name).write_bytes(part)
        before = run.read_trials()
        # A run that can be read can be gone on with.
        run.append_epoch(7, report(9))
        (after,) = run.read_trials()
        assert after.epochs[-1].epoch >= 9
        assert len(after.epochs) >= len(before[0].epochs)
        return tuple(before)

    lines = "".join(json.dumps(report(epoch).to_dict()) + "\n" for epoch in (1, 2))
    good = divider.join(
        [
            json.dumps(START.to_dict()).encode(),
            lines.encode(),
            json.dumps(dataclasses.asdict(OUTCOME)).encode(),
        ]
    )
    return Target([good], JSON_WORDS, read, lambda records: records[0].number == 7)


def _bytes(save: Callable[[Any, Any], object], value: Any) -> bytes:
    buffer = io.BytesIO()
    save(buffer, value)
    return buffer.getvalue()


def resumed_manifests() -> Target:
    (name,) = resumed.files("manifest.json")
    words = (*JSON_WORDS, b'"local": false', b'"seed": -1', b"1e300", b'"../../x"', b"[1]")
    return Target([resumed.content(name)], words, resumed.ask(name), lambda asked: asked[1].num_samples >= 1)


def resumed_studies() -> Target:
    (name,) = resumed.files("study.db")
    words = (b"RUNNING", b"COMPLETE", b"PRUNED", b"outcome", b"config", b'{"end": 3}', *JSON_WORDS)
    return Target([resumed.content(name)], words, resumed.resume(name), resumed.sound, cost=4)


def resumed_spaces() -> Target:
    (name,) = resumed.files("space.yaml")
    words = (b"low: ", b"choices: []", b"latent_dim", b"stride: {choices: [8]}", b".nan", b"&a [*a]", b"- ")
    return Target([resumed.content(name)], words, resumed.ask(name), lambda asked: bool(asked[0].space.names))


def resumed_reports() -> Target:
    """In a running trial an unreadable line is refused, a cut one is mended."""
    name = resumed.files("trials/00004/epochs.jsonl")[0]
    return Target([resumed.content(name)], JSON_WORDS, resumed.resume(name), resumed.sound, cost=6)


def resumed_checkpoints() -> Target:
    """A running trial's damaged checkpoint is passed over, with a right checksum too."""
    name = resumed.files("trials/00004/checkpoints/*.ckpt")[-1]
    resume = resumed.resume(name)

    def read(content: bytes, folder: Path) -> Any:
        signed = b"vqvae-ad checkpoint 1\n" + hashlib.sha256(content).digest() + content
        return resume(signed if len(content) % 2 else content, folder)

    states: list[Any] = [
        {"epoch": 2},
        {"epoch": "two"},
        {"epoch": None},
        {"other": 1},
        {"epoch": [2]},
        {"epoch": 1e400},
    ]
    good = [_bytes(lambda file, value: torch.save(value, file), state) for state in states]
    return Target(
        [resumed.content(name), *good], (b"PK\x03\x04", b"epoch", b"R."), read, resumed.sound, lenient=True, cost=6
    )


READERS = (spaces, configurations, npy, wav, checkpoints, unsigned_checkpoints, statistics, manifests, trials)
RESUMES = (resumed_manifests, resumed_studies, resumed_spaces, resumed_reports, resumed_checkpoints)
TARGETS = {make.__name__: make for make in (*READERS, *RESUMES)}


def fuzz(name: str, folder: Path, count: int) -> None:
    """Reads `count` inputs; fails with the seed of the first that ends in anything but a result or a ProjectError."""
    target = TARGETS[name]()
    count //= target.cost
    for good in target.good:
        assert target.right(target.read(good, folder)), "the unmutated file is accepted"
    accepted = refused = 0
    for seed in range(count):
        rng = random.Random(f"{name} {seed}")
        content = mutated(rng, rng.choice(target.good), target.words)
        try:
            result = target.read(content, folder)
        except ProjectError as error:
            refused += 1
            message = str(error)
            assert message, f"{name}, seed {seed}: refused without a word"
            assert "\n" not in message, f"{name}, seed {seed}: {message!r} is more than one line"
            assert len(message) < 1_000, f"{name}, seed {seed}: a message of {len(message)} characters"
        except Exception as error:
            raise AssertionError(f"{name}, seed {seed}: {type(error).__name__}: {error}") from error
        else:
            accepted += 1
            assert target.right(result), f"{name}, seed {seed}: accepted what is not right"
    assert target.lenient or refused > count / 20, "the mutations hit something"
    assert accepted + refused == count


@pytest.mark.parametrize("name", TARGETS)
def test_a_few_hundred_damaged_files(name: str, tmp_path: Path) -> None:
    fuzz(name, tmp_path, SHORT)


@pytest.mark.long
@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.timeout(900)
def test_thousands_of_damaged_files(name: str, tmp_path: Path) -> None:
    fuzz(name, tmp_path, FULL)


ANYTHING = (None, -1, 0, 1e300, "x", "", [], {}, [1], {"a": 1}, True, "../../etc", "\0", 10**30, "/tmp\nx", [{}], [[]])


def paths_of(values: dict[str, Any], before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in values.items():
        yield (*before, key)
        if isinstance(value, dict):
            yield from paths_of(value, (*before, key))


def any_manifest(folder: Path, every: int) -> None:
    """Puts each of `ANYTHING` into each field of a run's manifest, one at a time; every so-manieth is tried."""
    (name,) = resumed.files("manifest.json")
    good = json.loads(resumed.content(name))
    ask = resumed.ask(name)
    for index, (path, value) in enumerate((path, value) for path in paths_of(good) for value in ANYTHING):
        if index % every:
            continue
        changed = json.loads(resumed.content(name))
        place = changed
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        lines = ask_anything(ask, json.dumps(changed).encode(), folder, f"{path} = {value!r}")
        assert len(lines) <= 1, f"{path} = {value!r}: {lines}"


def ask_anything(ask: Callable[[bytes, Path], Any], content: bytes, folder: Path, what: str) -> list[str]:
    """Lines of the refusal, none if it is accepted."""
    try:
        ask(content, folder)
    except ProjectError as error:
        return str(error).splitlines()
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    return []


def test_a_manifest_with_a_field_of_anything(tmp_path: Path) -> None:
    any_manifest(tmp_path, every=10)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_manifest_with_every_field_of_anything(tmp_path: Path) -> None:
    any_manifest(tmp_path, every=1)
