"""What ``--gpu-memory-budget`` may say, and the bytes that it means on a card."""

import pytest

from trainable.device.budget import Budget, Card
from trainable.errors import ConfigError
from trainable.units import GIB, MIB

RESERVE_BYTES = 512 * MIB
CARD = Card(24_564 * MIB, RESERVE_BYTES)
SMALL = Card(8 * GIB, RESERVE_BYTES)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("8GiB", 8 * GIB),
        ("24000MiB", 24_000 * MIB),
        ("20", 20 * GIB),
        ("1.5", 3 * GIB // 2),
        ("0.25", CARD.usable_bytes // 4),
        (".5", CARD.usable_bytes // 2),
        ("25%", CARD.usable_bytes // 4),
        ("100 %", CARD.usable_bytes),
        ("24GiB", CARD.usable_bytes),
        ("24", CARD.usable_bytes),
        ("auto", CARD.usable_bytes),
        ("80GiB", 80 * GIB),
    ],
)
def test_words_are_bytes_on_a_card(text: str, size_bytes: int) -> None:
    assert Budget.read(text).on([CARD]).size_bytes == size_bytes


@pytest.mark.parametrize(
    ("share", "slots"), [("0.5", 2), ("0.34", 2), ("0.3", 3), ("0.25", 4), ("0.1", 10), ("0.01", 100)]
)
def test_a_share_gives_as_many_slots(share: str, slots: int) -> None:
    size_bytes = Budget.read(share).on([CARD]).size_bytes
    assert size_bytes is not None
    assert CARD.usable_bytes // size_bytes == slots


def test_it_is_said_how_words_were_understood() -> None:
    said = {text: Budget.read(text).on([CARD]).said for text in ("8GiB", "20", "24", "24GiB", "0.25")}
    assert said["8GiB"] == ""
    assert said["20"] == "--gpu-memory-budget 20 means 20 GiB"
    assert "24 is a whole card: 23.5 GiB (a GPU of 24.0 GiB less a reserve of 512 MiB)" in said["24"]
    assert "24GiB is a whole card" in said["24GiB"]
    assert "0.25 is 5.87 GiB, its share of 23.5 GiB" in said["0.25"]


def test_what_other_programs_hold_is_no_part_of_a_card() -> None:
    shared = Card(24_564 * MIB, RESERVE_BYTES, taken_bytes=10 * GIB)
    assert Budget.read("0.5").on([shared]).size_bytes == shared.usable_bytes // 2 == (24_564 - 10 * 1024) // 2 * MIB
    assert str(shared) == "14.0 GiB (a GPU of 24.0 GiB less the 10.0 GiB that other programs hold)"
    assert Budget.read("16GiB").on([shared]).size_bytes == 16 * GIB, "not the whole card, and refused where it is used"
    beside_a_display = Card(24_564 * MIB, RESERVE_BYTES, taken_bytes=300 * MIB)
    assert beside_a_display.usable_bytes == CARD.usable_bytes


def test_of_several_cards_the_smallest_decides() -> None:
    assert Budget.read("0.5").on([CARD, SMALL]).size_bytes == SMALL.usable_bytes // 2
    assert Budget.read("auto").on([CARD, SMALL]).size_bytes == SMALL.usable_bytes
    assert Budget.read("8GiB").on([CARD, SMALL]).size_bytes == SMALL.usable_bytes, "the small one is used too"
    assert Budget.read("9.5GiB").on([CARD, SMALL]).size_bytes == 19 * GIB // 2, "which the small one is too small for"


def test_without_a_card_a_size_is_itself_and_auto_is_no_budget() -> None:
    assert Budget.read("24GiB").on([]).size_bytes == 24 * GIB
    assert Budget.read("auto").on([]).size_bytes is None
    with pytest.raises(ConfigError, match=r"0\.25 is a share of a GPU, and none is known here; give a size"):
        Budget.read("0.25").on([])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("24GB", "did you mean 24GiB?"),
        ("2048", "did you mean 2048MiB?"),
        ("0", "must be greater than zero"),
        ("-1", "not a positive number"),
        ("150%", "not a positive number"),
        ("1.0", "may mean 1 GiB or the whole card"),
        ("automatic", "not a positive number"),
        ("nan", "not a positive number"),
    ],
)
def test_what_is_none_of_them_is_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Budget.read(text)
