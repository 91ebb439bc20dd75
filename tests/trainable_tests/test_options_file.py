"""Flags from a YAML file: they mean what they would on the command line, which goes over them."""

from pathlib import Path

import pytest

from trainable.argument_parser import Parser, add_options_file
from trainable.commandline import add_flag, add_knob_flags, add_plan_flags
from trainable.errors import ConfigError


def parser() -> Parser:
    made = Parser(prog="train")
    add_flag(made, "machine_type")
    add_flag(made, "warm_start", nargs="+")
    add_flag(made, "quiet", action="store_true")
    add_options_file(made)
    add_plan_flags(made)
    add_knob_flags(made)
    return made


def write(folder: Path, text: str) -> str:
    path = folder / "options.yaml"
    path.write_text(text)
    return str(path)


def test_a_file_means_what_the_command_line_would(tmp_path: Path) -> None:
    lines = (
        "machine-type: no",
        "learning_rate: 1e-3",
        "use-amp: false",
        "quiet: true",
        "revival: yes",
        "memory-saver: off",
        "warm-start: [a, b]",
        "seed: 3",
    )
    from_file = parser().parse_args(["--options", write(tmp_path, "\n".join(lines))])
    words = "--machine-type no --learning-rate 1e-3 --no-use-amp --quiet --revival --warm-start a b --seed 3"
    given = parser().parse_args(words.split())
    assert {**vars(from_file), "options": None} == vars(given)


def test_the_command_line_goes_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "seed: 3\nuse-amp: true\nwarm-start: [a, b]\nstride: 4\n")
    words = ["--seed=5", "--no_use_amp", "--options", path, "--warm_start", "c"]
    arguments = parser().parse_args(words)
    assert (arguments.seed, arguments.use_amp, arguments.warm_start, arguments.stride) == (5, False, ["c"], 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeed: 3", r"line 1: 'seeed' is no flag of train \(did you mean --seed\?\)"),
        ("seed: 1\n\nseed: 2", "line 3: seed is given twice"),
        ("use-amp: 1\nuse_amp: 0", "line 1: use-amp is '1'; it must be true or false"),
        ("seed: many", "invalid int value: 'many' .*line 1"),
        ("seed: [1, 2]", "seed is a list; it takes one value"),
        ("seed: {a: 1}", "seed needs a value"),
        ("seed:", "seed needs a value"),
        ("options: other.yaml", "'options' is no flag"),
        ("help: true", "'help' is no flag"),
        ("no-use-amp: true", "line 1: no-use-amp is written use-amp: false"),
        ("[seed]", "holds no flags"),
        ("", "holds no flags"),
        ("seed: [", "cannot be read: while parsing"),
        ("? [a]\n: 1", "'a list or mapping' is no flag"),
    ],
)
def test_a_mistake_names_file_and_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parser().parse_args(["--options", write(tmp_path, text)])
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "large").write_text("#" * 70_000)
    for name, reason in (("none", "No such file"), ("binary", "cannot be read"), ("large", "more than 65536 bytes")):
        with pytest.raises(ConfigError, match=reason):
            parser().parse_args(["--options", str(tmp_path / name)])
