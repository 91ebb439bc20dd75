"""A GPU memory budget as a user writes it: a size, a number of GiB, a share of the card, or auto."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from trainable.errors import ConfigError
from trainable.units import GIB, MIB, format_bytes, parse_bytes

AUTO = "auto"
WHOLE_CARD = Decimal("1.10")
"""A size up to this many times a card's memory means all of it: one sold with 24 GB has 24,564 MiB, or 23,028."""
MOST_BARE_GIB = 1024
"""A number without a unit up to this one means GiB."""
_BARE = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*")
_FLAG = "--gpu-memory-budget"


@dataclass(frozen=True)
class Card:
    """The memory of a GPU."""

    total_bytes: int
    reserve_bytes: int
    """Left free beside all budgets (`DeviceProfile.reserve_bytes`); other programs may hold it."""
    taken_bytes: int = 0
    """What other programs held when the driver was asked."""

    @property
    def usable_bytes(self) -> int:
        """What budgets may add up to, in whole MiB."""
        return max(0, self.total_bytes - max(self.reserve_bytes, self.taken_bytes)) // MIB * MIB

    def is_meant_by(self, size_bytes: int) -> bool:
        """Whether a size is that of the whole card, which has less to give."""
        return self.total_bytes - self.reserve_bytes < size_bytes <= WHOLE_CARD * self.total_bytes

    @property
    def limits(self) -> str:
        """Its size, and what is not for budgets."""
        left = f"a reserve of {format_bytes(self.reserve_bytes)}"
        if self.taken_bytes > self.reserve_bytes:
            left = f"the {format_bytes(self.taken_bytes)} that other programs hold"
        return f"a GPU of {format_bytes(self.total_bytes)} less {left}"

    def __str__(self) -> str:
        return f"{format_bytes(self.usable_bytes)} ({self.limits})"


@dataclass(frozen=True)
class FixedBudget:
    """A budget in bytes; None = no budget."""

    size_bytes: int | None
    said: str = ""
    """How the user's words were understood; empty where they were a size with its unit."""


@dataclass(frozen=True)
class Budget:
    """What was asked for: a size, a share of a card, or neither, for the product to choose."""

    text: str
    """As given."""
    size_bytes: int | None = None
    share: Decimal | None = None
    """Of what a card has less its reserve, above 0 and up to 1."""

    @classmethod
    def read(cls, text: str) -> "Budget":
        """A budget such as ``24GiB``, ``24`` (GiB, up to 1024), ``0.25`` or ``25%`` of the card, or ``auto``.

        Raises
        ------
        ConfigError
            If the text is none of these.
        """
        if text.strip().lower() == AUTO:
            return cls(text)
        number, share = _number(text), _share(text)
        if 0 < share <= 1:
            return cls(text, share=share)
        if number == 1 and "." in text:
            raise ConfigError(f"{_FLAG} {text} may mean 1 GiB or the whole card; write 1GiB or 100%")
        if 1 <= number <= MOST_BARE_GIB:
            return cls(text, size_bytes=int(number * GIB))
        return cls(text, size_bytes=parse_bytes(text, _FLAG))

    @property
    def is_auto(self) -> bool:
        """Whether the product is to choose."""
        return self.size_bytes is None and self.share is None

    def on(self, cards: Sequence[Card]) -> FixedBudget:
        """The bytes of a size, a share or a whole card (auto) on the cards that trials use; the smallest decides.

        A size that is a little more than a card has (`WHOLE_CARD`) is all that it has less its reserve.

        Parameters
        ----------
        cards
            Empty where trials run on a CPU or the cards are not known: a size is taken as it is, auto is no budget.

        Raises
        ------
        ConfigError
            For a share without a card.
        """
        if self.share is not None:
            return self._share_of(cards, self.share)
        if self.size_bytes is None:
            return self._whole_card(cards)
        nearly = [card for card in cards if card.is_meant_by(self.size_bytes)]
        if nearly:
            card = min(nearly, key=lambda each: each.usable_bytes)
            return FixedBudget(card.usable_bytes, f"{_FLAG} {self.text} is a whole card: {card}")
        means_gib = 1 <= _number(self.text) <= MOST_BARE_GIB
        return FixedBudget(self.size_bytes, f"{_FLAG} {self.text} means {self.text} GiB" if means_gib else "")

    @staticmethod
    def _whole_card(cards: Sequence[Card]) -> FixedBudget:
        if not cards:
            return FixedBudget(None)
        card = min(cards, key=lambda each: each.usable_bytes)
        return FixedBudget(card.usable_bytes, f"one trial at a time has a whole card: {card}")

    def _share_of(self, cards: Sequence[Card], share: Decimal) -> FixedBudget:
        if not cards:
            raise ConfigError(
                f"{_FLAG} {self.text} is a share of a GPU, and none is known here; give a size such as 8GiB, or a "
                "--profile that has total_bytes"
            )
        card = min(cards, key=lambda each: each.usable_bytes)
        size_bytes = max(MIB, int(card.usable_bytes * share) // MIB * MIB)
        return FixedBudget(size_bytes, f"{_FLAG} {self.text} is {format_bytes(size_bytes)}, its share of {card}")


def _share(text: str) -> Decimal:
    """A share of the card, as a fraction or in percent; 0 for any other text."""
    if text.strip().endswith("%"):
        return _number(text.strip().removesuffix("%")) / 100
    number = _number(text)
    return number if number < 1 else Decimal(0)


def _number(text: str) -> Decimal:
    """A number without a unit; 0 for any other text."""
    bare = _BARE.fullmatch(text)
    return Decimal(bare[1]) if bare else Decimal(0)
