"""Flags in both spellings, errors as one line and an exit status."""

import argparse
import importlib
import io
import logging
import re
import signal
import sys
from collections.abc import Iterator, Sequence

import pytest

from trainable.commandline import (
    Parser,
    add_data_flags,
    add_flag,
    add_knob_flags,
    add_plan_flags,
    data_config,
    given_knobs,
    plan_request,
    resolve_device,
    run,
    set_up_logging,
)
from trainable.config import DataConfig, TrialConfig, knobs
from trainable.errors import ConfigError, DataError, ProjectError
from trainable.execution_plan import PlanRequest
from trainable.stop_signals import Stopped


def parse(*arguments: str) -> argparse.Namespace:
    parser = Parser(prog="train")
    add_data_flags(parser)
    add_plan_flags(parser)
    add_knob_flags(parser, leave_out=["seed"])
    add_flag(parser, "gpu-memory-budget")
    return parser.parse_args(arguments)


def both(name: str) -> list[str]:
    return ["--" + name, "--" + name.replace("_", "-")]


@pytest.mark.parametrize("spelling", [0, 1])
def test_the_recipes_flags_are_known_in_both_spellings(spelling: int) -> None:
    """The flags that a user of the original recipe knows."""
    values = {"data_root": "/d", "machine_type": "pump", "batch_size": "4", "epochs": "3", "norm_stats_path": "/n.pt"}
    values |= {"n_patches": "6", "stride": "8", "gradient_accumulation_steps": "2"}
    words = [word for name, value in values.items() for word in (both(name)[spelling], value)]
    names = ("use_amp", "use_gradient_checkpointing", "memory_saver", "smallest_plan")
    switches = [both(name)[spelling] for name in names]
    arguments = parse(*words, *switches)
    assert given_knobs(arguments) == {"batch_size": 4, "epochs": 3, "n_patches": 6, "stride": 8}
    data = data_config(arguments)
    assert (data.data_root, data.machine_type, data.norm_stats_path) == ("/d", "pump", "/n.pt")
    request = plan_request(arguments, batch_size=4)
    assert request == PlanRequest(micro_batch_clips=2, recompute=True, amp=True, memory_saver=True, smallest=True)
    assert parse(both("gpu_memory_budget")[spelling], "8GiB").gpu_memory_budget == "8GiB"


@pytest.mark.parametrize("off", ["--no-use-amp", "--no-use-gradient-checkpointing"])
def test_the_memory_saver_without_what_it_switches_on_is_refused(off: str) -> None:
    with pytest.raises(ConfigError, match=f"^--memory-saver switches .* on and {off} switches it off; give only one"):
        plan_request(parse("--memory-saver", off), batch_size=4)
    assert plan_request(parse("--smallest-plan", off), batch_size=4).smallest


@pytest.mark.parametrize(
    ("module", "words", "message"),
    [
        ("analysis.best", "RUN --members 3", "--members is for --retrain; add it"),
        ("analysis.best", "RUN --output DIR", "--output is for --retrain; add it"),
        (
            "analysis.report",
            "RUN --no-model --held-out",
            "--held-out scores the winner's model; remove it or --no-model",
        ),
        ("trainable.recordings", "DIR --no-reading --n-fft 512", "--n-fft changes nothing with --no-reading"),
        ("trainable.recordings", "DIR --data-root DIR", "--data-root and FOLDER cannot be combined"),
    ],
)
def test_a_flag_that_would_change_nothing_is_refused(
    module: str, words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(importlib.import_module(module).main, words.split()) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


@pytest.mark.parametrize("word", ["--no-density-per-id", "--no_density_per_id", "--no-density_per_id"])
def test_a_switch_is_switched_off_in_both_spellings(word: str) -> None:
    assert given_knobs(parse(word)) == {"density_per_id": False}
    assert given_knobs(parse("--density_per_id")) == {"density_per_id": True}
    assert given_knobs(parse("--density-per-id")) == {"density_per_id": True}
    assert given_knobs(parse("--no-revival", "--kmeans-start")) == {"revival": False, "kmeans_start": True}


def test_every_knob_has_a_flag_that_takes_its_default() -> None:
    for spec in knobs():
        if spec.name == "seed":
            continue
        hyphens = both(spec.name)[1]
        words = (
            [hyphens]
            if spec.default is True
            else [f"--no{hyphens[1:]}"]
            if spec.default is False
            else [hyphens, str(spec.default)]
        )
        assert given_knobs(parse(*words)) == {spec.name: spec.default}
        assert TrialConfig.from_flat(given_knobs(parse(*words))) == TrialConfig()


def test_what_is_not_given_is_not_there() -> None:
    assert given_knobs(parse()) == {}
    assert data_config(parse()) == DataConfig()
    assert plan_request(parse(), batch_size=4) == PlanRequest()


def test_flags_go_over_what_a_space_or_a_saved_run_says() -> None:
    saved = {"machine_type": "valve", "n_fft": 512, "hop_length": 256}
    data = data_config(parse("--hop_length", "128"), saved)
    assert (data.machine_type, data.front_end.n_fft, data.front_end.hop_length) == ("valve", 512, 128)
    with pytest.raises(ConfigError, match="unknown data parameter 'machine'"):
        data_config(parse(), {"machine": "valve"})
    with pytest.raises(ConfigError, match="machine_type is 3; it must be text"):
        data_config(parse(), {"machine_type": 3})


def test_recordings_given_as_a_flag_replace_saved_embedded_machines() -> None:
    saved = {"embedded_test_clips": 125}
    assert data_config(parse(), saved).embedded_test_clips == 125
    assert data_config(parse("--embedded_test_clips", "7"), saved).embedded_test_clips == 7
    assert data_config(parse("--data-root", "/d"), saved) == DataConfig(data_root="/d")
    with pytest.raises(ConfigError, match="leave one of the two out"):
        data_config(parse("--data-root", "/d", "--embedded-test-clips", "125"))


@pytest.mark.parametrize(("steps", "batch_size", "clips"), [(1, 16, 16), (4, 16, 4), (16, 16, 1), (1, 1, 1)])
def test_accumulation_steps_become_whole_clips(steps: int, batch_size: int, clips: int) -> None:
    arguments = parse("--gradient-accumulation-steps", str(steps))
    assert plan_request(arguments, batch_size).micro_batch_clips == clips


@pytest.mark.parametrize("steps", [0, -1, 17, 5])
def test_accumulation_that_is_not_obeyed_exactly_is_refused(steps: int) -> None:
    """16 clips in 5 steps would be 4 micro-batches of 4."""
    with pytest.raises(ConfigError, match=rf"is {steps}, which .* must be one of 1, 2, 4, 8, 16"):
        plan_request(parse("--gradient-accumulation-steps", str(steps)), 16)


@pytest.mark.parametrize(
    ("flags", "value"),
    [
        (("--use-amp", "--use_gradient_checkpointing"), True),
        (("--no-use-amp", "--no_use_gradient_checkpointing"), False),
    ],
)
def test_parts_of_a_plan_are_asked_for_or_forbidden(flags: tuple[str, str], value: bool) -> None:
    request = plan_request(parse(*flags), 16)
    assert (request.amp, request.recompute) == (value, value)
    assert (plan_request(parse(), 16).amp, plan_request(parse(), 16).recompute) == (None, None)


@pytest.mark.parametrize("words", [["--stride", "many"], ["--density", "count"], ["--nothing"], ["--epochs"]])
def test_a_mistyped_flag_is_named(words: list[str]) -> None:
    with pytest.raises(ConfigError, match=f"{words[0]}.*; see train --help$"):
        parse(*words)


@pytest.mark.parametrize("words", [["--data-root", ""], ["--data-root="], ["--gpu_memory_budget="], ["--density", ""]])
def test_an_empty_value_is_not_a_flag_left_out(words: list[str]) -> None:
    parser = Parser(prog="train")
    add_data_flags(parser)
    add_knob_flags(parser)
    add_flag(parser, "gpu_memory_budget")
    with pytest.raises(
        ConfigError, match=r"is empty; give it a value or leave it out; see train --help|invalid choice"
    ):
        parser.parse_args(words)
    assert parser.parse_args(["--data-root", "0"]).data_root == "0"


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("--max-epochs", "--epochs"),
        ("--n_epochs=3", "--epochs"),
        ("--budget", "--gpu-memory-budget"),
        ("--lr", "--learning-rate"),
        ("--learning-rat", "--learning-rate"),
        ("--machne-type", "--machine-type"),
        ("--no-use-amq", "--no-use-amp"),
    ],
)
def test_an_unknown_flag_is_answered_with_the_one_that_was_meant(word: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=rf"unknown flag --[\w-]+ \(did you mean {meant}\?\); see train --help"):
        parse(word, "3")


def test_flags_are_not_shortened_and_values_of_unknown_ones_not_repeated() -> None:
    with pytest.raises(ConfigError, match=r"unknown flag --epoch \(did you mean --epochs\?\)"):
        parse("--epoch", "3")
    with pytest.raises(ConfigError) as caught:
        parse("--data-rot=s3://user:secret@host/x")
    assert "secret" not in str(caught.value)


def test_words_behind_two_dashes_are_no_flags() -> None:
    parser = Parser(prog="score")
    parser.add_argument("files", nargs="+")
    assert parser.parse_args(["--", "--a_b.wav", "-1.wav"]).files == ["--a_b.wav", "-1.wav"]


def test_help_is_for_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser(prog="train", description="Trains ``x``.\n\nA second\nparagraph.")
    add_plan_flags(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    shown = capsys.readouterr().out
    assert "Trains x.\n\nA second paragraph.\n" in shown
    assert "`" not in shown
    assert re.search(r"^  --use-amp, --no-use-amp$", shown, re.MULTILINE)
    assert "_" not in shown


def test_versions_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse("--version")
    assert ended.value.code in (0, None)
    assert re.fullmatch(r"vqvae-ad-search \S+, torch \S+, ray \S+, optuna \S+, Python \S+\n", capsys.readouterr().out)


def test_help_tells_every_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert all(spec.doc.split(";")[0] in text for spec in knobs() if spec.name != "seed")


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (DataError("no data"), 2, "error: no data"),
        (ConfigError("bad value"), 2, "error: bad value"),
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C"),
        (Stopped(signal.SIGTERM), 143, "stopped by SIGTERM"),
    ],
)
def test_an_error_is_one_line_and_a_status(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(argv: Sequence[str] | None) -> int:
        raise error

    assert run(main, []) == status
    captured = capsys.readouterr()
    assert captured.err == line + "\n"
    assert captured.out == ""


def test_a_mistake_of_ours_is_not_hidden() -> None:
    def main(argv: Sequence[str] | None) -> int:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        run(main, [])
    assert run(lambda argv: len(argv or []), ["a", "b"]) == 2
    assert all(each.exit_status != 0 for each in ProjectError.__subclasses__())


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "cp1252", "gbk", "euc_jp", "utf-16-le"])
def test_any_file_name_is_printed_whatever_the_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can be written is; bytes that could not be decoded come out as they were."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict") for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    name = "r\udce9c \ud800 \N{SNOWMAN}"

    def main(argv: Sequence[str] | None) -> int:
        print(name)
        raise DataError(name)

    assert run(main, []) == 2
    for stream, start in zip(streams, ("", "error: "), strict=True):
        stream.flush()
        written = stream.buffer.getvalue()
        if encoding == "utf-16-le":
            assert written.decode(encoding) == f"{start}r\\udce9c \\ud800 \N{SNOWMAN}\n"
        else:
            snowman = "\N{SNOWMAN}".encode(encoding, "backslashreplace")
            assert written == start.encode() + b"r\xe9c \\ud800 " + snowman + b"\n"


@pytest.fixture
def levels() -> Iterator[None]:
    packages = [logging.getLogger(name) for name in ("trainable", "search", "spaces", "analysis")]
    before = [package.level for package in packages]
    yield
    for package, level in zip(packages, before, strict=True):
        package.setLevel(level)


@pytest.mark.usefixtures("levels")
def test_verbose_and_quiet_decide_what_is_logged() -> None:
    for options, level in (({}, logging.WARNING), ({"verbose": True}, logging.DEBUG), ({"quiet": True}, logging.ERROR)):
        set_up_logging(**options)
        assert {logging.getLogger(name).level for name in ("trainable", "search", "spaces", "analysis")} == {level}


@pytest.mark.parametrize(
    ("name", "cards", "meant"),
    [("cpu", 0, "cpu"), ("auto", 0, "cpu"), ("auto", 2, "cuda"), ("cuda", 1, "cuda"), ("cuda:1", 2, "cuda:1")],
)
def test_a_device_that_is_there(name: str, cards: int, meant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: cards > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: cards)
    assert resolve_device(name) == meant


@pytest.mark.parametrize(
    ("name", "cards", "words"),
    [
        ("foo", 2, "--device is 'foo'; it must be cpu, cuda,"),
        ("mps", 2, "it must be cpu"),
        ("cpu:1", 2, "it must be cpu"),
        ("cuda:", 2, "it must be cpu"),
        ("cuda:x", 2, "it must be cpu"),
        ("cuda", 0, "sees no CUDA device on this machine; use --device cpu"),
        ("cuda:2", 2, "sees 2 CUDA devices on this machine, numbered from 0"),
    ],
)
def test_a_device_that_is_not(name: str, cards: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: cards > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: cards)
    with pytest.raises(ConfigError, match=re.escape(words)):
        resolve_device(name)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("trainable.score", ["--model", "DIR", "x.wav"]),
        ("trainable.train", []),
        ("analysis.best", ["RUN"]),
        ("analysis.report", ["RUN"]),
        ("analysis.dcase_table", ["--data-root", "DIR"]),
    ],
)
def test_every_command_answers_a_wrong_device_in_one_line(
    module: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main = importlib.import_module(module).main
    assert run(main, [*words, "--device", "foo"]) == 2
    error = capsys.readouterr().err
    assert error == "error: --device is 'foo'; it must be cpu, cuda, one CUDA device such as cuda:0, or auto\n"
