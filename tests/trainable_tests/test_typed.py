"""Values that are read back: what a dataclass accepts of them, and what is said of the rest."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest

from trainable.typed import Count, Finite, Length, Positive, Share, Within, build


@dataclass(frozen=True)
class Part:
    share: Share


@dataclass(frozen=True)
class Whole:
    scales: Annotated[tuple[Positive, ...], Length(2)]
    parts: dict[str, Part]
    count: Count = 0
    level: Finite | None = None
    channel: int | Literal["mean"] = "mean"
    few: Annotated[int, Within(low=1, high=8)] = 1


GOOD: dict[str, Any] = {"scales": [1, 0.5], "parts": {"a": {"share": 1}}}


def test_parts_lists_and_unions_are_built() -> None:
    assert build(Whole, GOOD) == Whole((1.0, 0.5), {"a": Part(1.0)})
    assert build(Whole, {**GOOD, "channel": 3, "level": -1}) == Whole((1.0, 0.5), {"a": Part(1.0)}, 0, -1.0, 3)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"scales": [1.0, 0.0]}, "scales[1] is 0.0; it must be above 0"),
        ({"scales": [1.0, float("nan")]}, "scales[1] is nan; it must be above 0"),
        ({"scales": [1.0]}, "scales is (1.0,); it must be a list of 2 values"),
        ({"parts": {"a": {"share": 1.5}}}, "parts['a']: share is 1.5; it must be at least 0 and at most 1"),
        ({"parts": {"a": {}}}, "parts['a']: the field 'share' is missing"),
        ({"parts": {"a": 3}}, "parts['a'] is 3, which is not of type Part"),
        ({"count": 10**400}, "it must be at least 0"),
        ({"count": True}, "count is True, which is not of type int"),
        ({"level": float("inf")}, "level is inf; it must be finite"),
        ({"channel": "left"}, "channel is 'left', which is not of type int"),
        ({"few": 9}, "few is 9; it must be at least 1 and at most 8"),
    ],
)
def test_what_does_not_fit_is_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        build(Whole, {**GOOD, **changed})
    assert message in str(caught.value)


def test_what_is_no_object_is_refused() -> None:
    with pytest.raises(ValueError, match="is not a JSON object"):
        build(Part, 3)  # type: ignore[arg-type]
