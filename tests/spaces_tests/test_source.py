"""A space file is data: nothing in it runs, expands, explodes or goes on for ever."""

from pathlib import Path

import pytest

from spaces.loader import load_space, space_from_text
from spaces.source import MOST_BYTES, Source, parse, read_source
from trainable.errors import SpaceError

GOOD = "parameters:\n  latent_dim: {low: 8, high: 64}\n"
BOMB = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}]\n" for old, new in zip("abcdefg", "bcdefgh", strict=True)
)


def refusal(text: str) -> str:
    with pytest.raises(SpaceError) as caught:
        space_from_text(text, "mine.yaml")
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


def test_every_value_keeps_its_line() -> None:
    root = parse(Source("f"), "a: 1\nb:\n  - 2.5\n  - {c: true}\n")
    values = root.value
    assert (values["a"].value, values["a"].line) == (1, 1)
    assert [(item.line, item.value) for item in values["b"].value[:1]] == [(3, 2.5)]
    assert values["b"].value[1].value["c"].value is True


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (BOMB, 2, "aliases"),
        ("parameters: !!python/object/apply:os.system [ls]\n", 1, "tags"),
        ("parameters: !!python/object:os.system\n  latent_dim: {low: 8, high: 64}\n", 1, "tags"),
        ("? !!binary parameters\n: {}\n", 1, "tags"),
        (GOOD + "fixed:\n  revival: !!bool maybe\n", 4, "tags"),
        (GOOD + "fixed: {n_patches: 2001-01-01}\n", 3, "is a timestamp; write a number, text or true/false"),
        (GOOD + "fixed:\n  n_patches: 2\n  n_patches: 4\n", 5, "'n_patches' is given twice"),
        (GOOD + "? [a, b]\n: 3\n", 3, "a key must be a plain name"),
        ("parameters:\n\tlatent_dim: 3\n", 2, "is not YAML"),
        ("parameters: {latent_dim: [1, 2\n", 2, "is not YAML"),
        ("parameters: {}\n---\nparameters: {}\n", 2, "is not YAML"),
        ("a\0b", 1, "is not YAML"),
        ("# nothing here\n", 1, "the file is empty"),
        ("- latent_dim\n", 1, "the file must be a mapping"),
        ("latent_dim\n", 1, "the file must be a mapping"),
    ],
)
def test_what_no_space_needs_is_refused_with_its_line(text: str, line: int, message: str) -> None:
    told = refusal(text)
    assert told.startswith(f"mine.yaml, line {line}: ")
    assert message in told


@pytest.mark.parametrize(
    "text",
    ["[" * 60_000, "{a: " * 15_000, "- " * 20_000, "? " * 20_000, "a:\n" * 10_000, "&a " * 10_000, "[" + "1," * 30_000],
    ids=["brackets", "mappings", "dashes", "questions", "keys", "anchors", "values"],
)
def test_depth_and_number_are_limited_before_they_cost(text: str) -> None:
    """Sixty thousand brackets took the YAML scanner a minute; the time limit of a test is the assertion here."""
    assert "mine.yaml, line " in refusal(text)


@pytest.mark.parametrize("number", ["1" + "0" * 400, "1" + "0" * 5000, "0x" + "F" * 5000, "9007199254740993"])
@pytest.mark.parametrize("where", ["width: {}", "n_patches: {}", "seed: {}"])
def test_numbers_beyond_every_float_are_refused(number: str, where: str) -> None:
    refusal(GOOD + "fixed:\n  " + where.format(number) + "\n")


def test_a_huge_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "huge.yaml"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(SpaceError, match=f"more than {MOST_BYTES} bytes"):
        read_source(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.yaml", "cannot be read: No such file"),
        ("x" * 300 + ".yaml", "cannot be read"),
        ("x" * 300, "there is no space"),
        ("a\0.yaml", "cannot be read"),
        ("", "Is a directory"),
        ("ad_tunin", "did you mean 'ad_tuning'"),
        ("../ad_tuning", "there is no space"),
    ],
)
def test_a_file_that_is_not_there_is_named(name: str, message: str) -> None:
    with pytest.raises(SpaceError, match=message) as caught:
        load_space(name)
    assert "name a YAML file" in str(caught.value)
    assert "ad_tuning" in str(caught.value)


def test_text_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes("description: Größe\n".encode("latin-1"))
    with pytest.raises(SpaceError, match="is not UTF-8"):
        load_space(str(path))
