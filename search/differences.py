"""What differs between the settings of a run and those of its resume, as a person reads it."""

from collections.abc import Mapping
from typing import Any

from spaces.space import Choices, Distribution, Space


def space_differences(old: Space, new: Space) -> list[str]:
    """One phrase a parameter or fixed value that is there, missing or different."""
    before = {parameter.name: parameter for parameter in old.parameters}
    after = {parameter.name: parameter for parameter in new.parameters}
    differences = []
    for name in sorted(before.keys() | after.keys()):
        shown = [
            "not searched" if name not in of else _shown(of[name].distribution, of[name].when) for of in (before, after)
        ]
        if shown[0] != shown[1]:
            differences.append(f"{name} {shown[0]} → {shown[1]}")
    for what, was, now in (("fixed", old.fixed, new.fixed), ("data", old.data, new.data)):
        differences += [f"{what} {each}" for each in value_differences(was, now)]
    return differences


def value_differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """``name old → new`` for each value that is not the same."""
    return [
        f"{name} {was.get(name, 'none')} → {now.get(name, 'none')}"
        for name in sorted(was.keys() | now.keys())
        if was.get(name) != now.get(name)
    ]


def _shown(distribution: Distribution, when: Any) -> str:
    if isinstance(distribution, Choices):
        text = f"[{', '.join(str(value) for value in distribution.values)}]"
    else:
        text = f"{distribution.low:g} … {distribution.high:g}"
        text += " log" if distribution.log else ""
        text += f" step {distribution.step:g}" if distribution.step else ""
        text += " integer" if distribution.integer else ""
    if when is not None:
        values = f"above {when.above:g}" if when.above is not None else f"in {list(when.values or ())}"
        text += f" when {when.parameter} {values}"
    return text
