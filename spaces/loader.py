"""Reads a space file; errors name the file, the line and the key."""

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from spaces.source import Located, Source, parse, read_source
from spaces.space import Choices, Condition, Distribution, Parameter, Range, SearchDefaults, Space
from trainable.config import DataConfig, Knob, TrialConfig, knobs, nearest
from trainable.errors import ConfigError, SpaceError

_SECTIONS = ("description", "parameters", "fixed", "data", "search", "on_gpu")
_PARAMETER_KEYS = ("low", "high", "log", "step", "choices", "when")
_RESERVED = ("epochs", "seed")
_DATA_KEYS = (
    "machine_type",
    "sample_rate",
    "n_fft",
    "hop_length",
    "channel",
    "validation_share",
    "embedded_test_clips",
    "objective",
)
"""A space may choose a front end. Paths come from the command line only, so that no file can point elsewhere."""


def builtin_spaces() -> list[str]:
    """Names of the spaces that come with the project."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.yaml"))


def load_space(name_or_path: str) -> Space:
    """Loads a built-in space by its name, or a space file by its path.

    A file is searched as it is written on every device: its `on_gpu` is None.

    Raises
    ------
    SpaceError
        Names the file, line and key, what was found, what is allowed and the nearest valid name.
    """
    builtin = Path(__file__).parent / f"{name_or_path}.yaml"
    path = Path(name_or_path)
    by_name = name_or_path in builtin_spaces()
    if by_name:
        path = builtin
    elif not path.suffix and not os.path.exists(path):
        raise SpaceError(
            f"there is no space {name_or_path!r}{nearest(name_or_path, builtin_spaces())}; there are "
            f"{', '.join(builtin_spaces())}, or name a YAML file"
        )
    source, text, located = read_source(path, f"name a YAML file, or one of {', '.join(builtin_spaces())}")
    space = _space(source, path.stem, text, located)
    return space if by_name else replace(space, on_gpu=None)


def space_from_text(text: str, name: str = "space") -> Space:
    """Reads a space from YAML text. Raises SpaceError."""
    source = Source(name)
    return _space(source, name, text, parse(source, text))


def space_from_mapping(values: Mapping[str, Any], name: str = "space") -> Space:
    """Reads a space from a mapping that is laid out as a space file. Raises SpaceError.

    Values are plain: texts, numbers, booleans, lists and mappings; messages count the lines of the YAML that they make.
    """
    try:
        text = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
    except yaml.YAMLError as error:
        raise SpaceError(f"{name} holds what no space file can: {' '.join(str(error).split())}") from None
    return space_from_text(text, name)


def _space(source: Source, name: str, text: str, root: Located) -> Space:
    sections = _mapping(source, root, "the file")
    for key, value in sections.items():
        if key not in _SECTIONS:
            raise source.error(value.line, f"unknown section {key!r}{nearest(key, _SECTIONS)}", known=_SECTIONS)
    if "parameters" not in sections:
        raise source.error(root.line, "the section 'parameters' is missing; it lists what to search")
    by_name = {spec.name: spec for spec in knobs() if spec.name not in _RESERVED}
    entries = _mapping(source, sections["parameters"], "'parameters'")
    fixed: dict[str, Any] = {}
    searched: dict[str, Parameter] = {}
    for section in ("fixed", "parameters"):
        for key, value in _mapping(source, sections[section], f"{section!r}").items() if section in sections else ():
            spec = _knob(source, by_name, key, value)
            if isinstance(value.value, list):
                raise source.error(value.line, _list_advice(section, key, value))
            if isinstance(value.value, dict):
                if section == "fixed":
                    raise source.error(value.line, f"{key} is fixed; give one value, or move it to 'parameters'")
                searched[key] = _parameter(source, spec, value)
            else:
                if key in fixed:
                    raise source.error(value.line, f"{key} is given twice")
                fixed[key] = _value(source, spec, value)
    if not searched:
        raise source.error(
            sections["parameters"].line, "no parameter has a range or choices; there is nothing to search"
        )
    for key in searched:
        if key in fixed:
            raise source.error(entries[key].line, f"{key} is both fixed and searched; keep one")
    _check_whole(source, root.line, fixed)
    ordered = _in_order(source, entries, searched, fixed)
    _check_conditions(source, entries, searched, fixed)
    _check_shares(source, entries, searched, fixed)
    return Space(
        name=name,
        text=text,
        parameters=ordered,
        fixed=fixed,
        data=_data(source, sections.get("data")),
        search=_search(source, sections.get("search")),
        on_gpu=_on_gpu(source, sections.get("on_gpu")),
    )


def _mapping(source: Source, located: Located, what: str) -> dict[str, Located]:
    if not isinstance(located.value, dict):
        raise source.error(located.line, f"{what} must be a mapping of names to values, found {located.value!r}")
    return located.value


def _knob(source: Source, by_name: dict[str, Knob], key: str, value: Located) -> Knob:
    if key in _RESERVED:
        raise source.error(value.line, f"{key} belongs to the search (--max-epochs, --seed), not to a space")
    if key not in by_name:
        raise source.error(value.line, f"unknown parameter {key!r}{nearest(key, by_name)}", known=by_name)
    return by_name[key]


def _list_advice(section: str, key: str, located: Located) -> str:
    """What to write in place of a bare list of values."""
    if section == "fixed":
        return f"{key} is fixed; give one value, or move it to 'parameters' with 'choices'"
    return f"{key}: a list of values is written {{choices: {_as_yaml(located)}}}"


def _as_yaml(located: Located) -> str:
    if isinstance(located.value, list):
        return f"[{', '.join(_as_yaml(item) for item in located.value)}]"
    if isinstance(located.value, dict):
        return "{…}"
    return {True: "true", False: "false", None: "null"}.get(located.value, str(located.value))


def _parameter(source: Source, spec: Knob, located: Located) -> Parameter:
    entries = _mapping(source, located, spec.name)
    for key, value in entries.items():
        if key not in _PARAMETER_KEYS:
            raise source.error(
                value.line,
                f"{spec.name}: unknown key {key!r}{nearest(key, _PARAMETER_KEYS)}",
                known=_PARAMETER_KEYS,
            )
    when = _condition(source, spec, entries["when"]) if "when" in entries else None
    if "choices" in entries:
        extra = sorted(set(entries) & {"low", "high", "log", "step"})
        if extra:
            raise source.error(located.line, f"{spec.name}: has 'choices' and {extra[0]!r}; give either")
        return Parameter(spec.name, _choices(source, spec, entries["choices"]), when)
    return Parameter(spec.name, _range(source, spec, located, entries), when)


def _choices(source: Source, spec: Knob, located: Located) -> Choices:
    if not isinstance(located.value, list) or not located.value:
        raise source.error(located.line, f"{spec.name}: 'choices' must be a list of at least one value")
    values = tuple(_value(source, spec, item) for item in located.value)
    if len(set(values)) < len(values):
        raise source.error(located.line, f"{spec.name}: 'choices' names a value twice")
    return Choices(values)


def _range(source: Source, spec: Knob, located: Located, entries: dict[str, Located]) -> Distribution:
    if spec.type not in (int, float):
        raise source.error(located.line, f"{spec.name} is {spec.type.__name__}; give 'choices'")
    for key in ("low", "high"):
        if key not in entries:
            raise source.error(located.line, f"{spec.name}: {key!r} is missing; give 'low' and 'high', or 'choices'")
    low, high = (_value(source, spec, entries[key]) for key in ("low", "high"))
    if low >= high:
        raise source.error(entries["low"].line, f"{spec.name}: low {low} is not below high {high}")
    log = entries["log"].value if "log" in entries else False
    if not isinstance(log, bool):
        raise source.error(entries["log"].line, f"{spec.name}: log is {log!r}; it must be true or false")
    if log and low <= 0:
        raise source.error(entries["low"].line, f"{spec.name}: a logarithmic range needs low above 0, found {low}")
    step = entries["step"].value if "step" in entries else None
    if step is not None:
        if isinstance(step, bool) or not isinstance(step, int | float) or not 0 < step <= high - low:
            raise source.error(entries["step"].line, f"{spec.name}: step is {step!r}; it must be in 0 … {high - low}")
        if spec.type is int and not isinstance(step, int):
            raise source.error(entries["step"].line, f"{spec.name}: step is {step!r}; an integer needs an integer step")
        if log:
            raise source.error(entries["step"].line, f"{spec.name}: a logarithmic range has no step; drop one")
        if not math.isclose((high - low) / step, round((high - low) / step), abs_tol=1e-9):
            raise source.error(entries["step"].line, f"{spec.name}: steps of {step} from {low} do not end at {high}")
        step = spec.type(step)
    return Range(low, high, log, step, spec.type is int)


def _condition(source: Source, spec: Knob, located: Located) -> Condition:
    entries = _mapping(source, located, f"{spec.name}: 'when'")
    if len(entries) != 1:
        raise source.error(located.line, f"{spec.name}: 'when' names exactly one parameter, found {len(entries)}")
    (name, value), *_ = entries.items()
    other = _knob(source, {known.name: known for known in knobs()}, name, value)
    if name == spec.name:
        raise source.error(value.line, f"{spec.name}: 'when' names the parameter itself")
    if isinstance(value.value, dict):
        bound = value.value.get("above")
        number = None if bound is None else bound.value
        if len(value.value) != 1 or isinstance(number, bool) or not isinstance(number, int | float):
            raise source.error(
                value.line, f"{spec.name}: 'when: {{{name}: …}}' takes a value, a list, or {{above: number}}"
            )
        if other.type not in (int, float):
            raise source.error(
                value.line, f"{spec.name}: {name} is {other.type.__name__}, and 'above' compares numbers; give values"
            )
        return Condition(name, above=float(number))
    items = value.value if isinstance(value.value, list) else [value]
    return Condition(name, tuple(_value(source, other, item) for item in items))


def _value(source: Source, spec: Knob, located: Located) -> Any:
    """Converts a YAML value to one that a trial's configuration accepts for this parameter."""
    if isinstance(located.value, dict | list):
        raise source.error(located.line, f"{spec.name}: give one value here")
    value = float(located.value) if spec.type is float and type(located.value) is int else located.value
    if spec.type is float and isinstance(value, str):
        raise source.error(located.line, f"{spec.name} is the text {value!r}; YAML wants 1.0e-3 rather than 1e-3")
    try:
        TrialConfig.from_flat(
            {
                spec.name: value,
                **({"vq_only_share": 0.0} if spec.name == "frozen_share" else {}),
                **({"frozen_share": 0.0} if spec.name == "vq_only_share" else {}),
            }
        )
    except ConfigError as error:
        raise source.error(located.line, str(error)) from None
    return value


def _check_whole(source: Source, line: int, fixed: dict[str, Any]) -> None:
    try:
        TrialConfig.from_flat(fixed)
    except ConfigError as error:
        raise source.error(line, f"the fixed values contradict each other: {error}") from None


def _in_order(
    source: Source, entries: dict[str, Located], searched: dict[str, Parameter], fixed: dict[str, Any]
) -> tuple[Parameter, ...]:
    """Sorts parameters so that each comes after the one its condition names; refuses circles and unknown names."""
    ordered: list[Parameter] = []
    waiting = list(searched.values())
    while waiting:
        known = set(fixed) | {parameter.name for parameter in ordered}
        ready = [parameter for parameter in waiting if parameter.when is None or parameter.when.parameter in known]
        if not ready:
            first = waiting[0]
            assert first.when is not None
            raise source.error(
                entries[first.name].line,
                f"{first.name}: 'when' names {first.when.parameter!r}, which is neither searched nor fixed here "
                "(or the conditions form a circle)",
            )
        ordered += ready
        waiting = [parameter for parameter in waiting if parameter not in ready]
    return tuple(ordered)


def _check_conditions(
    source: Source, entries: dict[str, Located], searched: dict[str, Parameter], fixed: dict[str, Any]
) -> None:
    """Refuses a condition that never holds: its parameter would silently never be searched."""
    for parameter in searched.values():
        if parameter.when is None:
            continue
        name = parameter.when.parameter
        if not parameter.when.can_hold(searched[name].distribution if name in searched else Choices((fixed[name],))):
            raise source.error(
                entries[parameter.name].line,
                f"{parameter.name}: its 'when' never holds, since {name} has none of those values in this space",
            )


def _check_shares(
    source: Source, entries: dict[str, Located], searched: dict[str, Parameter], fixed: dict[str, Any]
) -> None:
    """Refuses shares of epochs that some proposal would bring above 1."""
    names = ("vq_only_share", "frozen_share")
    default = TrialConfig.from_flat(fixed).flat()
    highest = [searched[name].distribution.highest if name in searched else default[name] for name in names]
    first = next((name for name in names if name in searched), None)
    if first is not None and sum(highest) > 1.0:
        raise source.error(
            entries[first].line,
            f"vq_only_share up to {highest[0]} and frozen_share up to {highest[1]} exceed 1 together; lower one",
        )


def _data(source: Source, located: Located | None) -> dict[str, Any]:
    if located is None:
        return {}
    values: dict[str, Any] = {}
    for key, value in _mapping(source, located, "'data'").items():
        if key not in _DATA_KEYS:
            raise source.error(
                value.line,
                f"unknown data parameter {key!r}{nearest(key, _DATA_KEYS)}; a space may give {', '.join(_DATA_KEYS)}",
            )
        values[key] = value.value
        if key == "machine_type" and (not isinstance(value.value, str) or "/" in value.value or ".." in value.value):
            raise source.error(value.line, f"machine_type is {value.value!r}; it must be the plain name of a folder")
    try:
        DataConfig.from_dict(values)
    except ConfigError as error:
        raise source.error(located.line, str(error)) from None
    return values


def _search(source: Source, located: Located | None) -> SearchDefaults:
    if located is None:
        return SearchDefaults()
    names = tuple(SearchDefaults.__dataclass_fields__)
    values: dict[str, int] = {}
    for key, value in _mapping(source, located, "'search'").items():
        if key not in names:
            raise source.error(value.line, f"unknown search setting {key!r}{nearest(key, names)}", known=names)
        least = 2 if key == "reduction_factor" else 1
        if type(value.value) is not int or not least <= value.value <= 1_000_000:
            raise source.error(value.line, f"{key} is {value.value!r}; it must be an integer in {least} … 1000000")
        values[key] = value.value
    return SearchDefaults(**values)


def _on_gpu(source: Source, located: Located | None) -> str | None:
    if located is None:
        return None
    name, known = located.value, builtin_spaces()
    if name not in known:
        raise source.error(
            located.line, f"on_gpu is {name!r}; it must be a built-in space{nearest(name, known)}", known=known
        )
    return str(name)
