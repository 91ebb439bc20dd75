"""A search space: what varies and how, what stays fixed, and how a proposal becomes a configuration."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from trainable.config import TrialConfig
from trainable.model.geometry import geometry_named


@lru_cache(maxsize=1)
def _defaults() -> dict[str, Any]:
    """Default knobs, computed on first use: an extension that cannot be imported must not stop this module's import."""
    return TrialConfig().flat()


@dataclass(frozen=True)
class Range:
    """Numbers between two bounds, both included."""

    low: float
    high: float
    log: bool = False
    step: float | None = None
    integer: bool = False

    def contains(self, value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high

    @property
    def highest(self) -> float:
        return self.high

    def lowest_from(self, bound: int) -> float:
        """The smallest whole number in the range that is at least `bound`, or else the largest in the range."""
        step = int(self.step or 1)
        return int(min(self.high, self.low + step * max(0, math.ceil((bound - self.low) / step))))


@dataclass(frozen=True)
class Choices:
    """One of several values."""

    values: tuple[Any, ...]

    def contains(self, value: Any) -> bool:
        return value in self.values

    @property
    def highest(self) -> Any:
        """The largest of the values."""
        return max(self.values)

    def lowest_from(self, bound: int) -> Any:
        """The smallest value that is at least `bound`, or else the largest value."""
        return min((value for value in self.values if value >= bound), default=self.highest)


Distribution = Range | Choices


@dataclass(frozen=True)
class Condition:
    """A parameter is searched only if another has one of certain values; otherwise it keeps its default."""

    parameter: str
    values: tuple[Any, ...] | None = None
    """Accepted values; None if `above` decides."""
    above: float | None = None

    def holds(self, params: Mapping[str, Any]) -> bool:
        if self.parameter not in params:
            return False
        value = params[self.parameter]
        return value > self.above if self.above is not None else value in (self.values or ())

    def can_hold(self, distribution: Distribution) -> bool:
        """Whether any value of the named parameter's distribution meets the condition."""
        if self.above is not None:
            return bool(distribution.highest > self.above)
        return any(distribution.contains(value) for value in self.values or ())


@dataclass(frozen=True)
class Parameter:
    """A searched parameter."""

    name: str
    distribution: Distribution
    when: Condition | None = None


@dataclass(frozen=True)
class SearchDefaults:
    """What a space suggests for the search itself; flags override it."""

    num_samples: int = 20
    max_epochs: int = 9
    grace_period: int = 1
    reduction_factor: int = 3


@dataclass(frozen=True)
class Space:
    """A validated search space."""

    name: str
    text: str
    """The text of the file."""
    parameters: tuple[Parameter, ...]
    """Ordered: each comes after the parameter its condition names."""
    fixed: dict[str, Any]
    data: dict[str, Any] = field(default_factory=dict)
    """Flat DataConfig values: a front end that suits the space."""
    search: SearchDefaults = field(default_factory=SearchDefaults)
    on_gpu: str | None = None
    """The built-in space that is searched in place of this one on a GPU."""
    clip_frames: int | None = None
    """Frames of the longest clip, if the data is known; n_patches is then at most the number of windows."""

    def named(self, name: str) -> "Space":
        """The same space under another name."""
        return replace(self, name=name)

    @property
    def digest(self) -> str:
        """SHA-256 of the space's meaning; comments and the order of lines do not change it."""
        meaning = {
            "parameters": sorted([repr(parameter) for parameter in self.parameters]),
            "fixed": self.fixed,
            "data": self.data,
        }
        return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.parameters)

    def is_active(self, parameter: Parameter, params: Mapping[str, Any]) -> bool:
        """Whether a parameter is searched given those before it."""
        return parameter.when is None or parameter.when.holds({**self.fixed, **params})

    def covers(self, params: Mapping[str, Any]) -> bool:
        """Whether each given value lies in this space, even if other parameters are missing."""
        distributions = {parameter.name: parameter.distribution for parameter in self.parameters}
        return all(name in distributions and distributions[name].contains(value) for name, value in params.items())

    def holds(self, params: Mapping[str, Any]) -> bool:
        """Whether this space could propose exactly these parameters."""
        return self.covers(params) and set(params) == {
            parameter.name for parameter in self.parameters if self.is_active(parameter, params)
        }

    def config(self, params: Mapping[str, Any], *, epochs: int, seed: int = 0) -> TrialConfig:
        """Returns the configuration of a proposal; other knobs are fixed or keep their defaults.

        A clip of L frames has (L − T) // stride + 1 windows of T frames, the length of the model's patches. More
        patches would only repeat windows, so n_patches, and score_patches where they begin at multiples of the stride,
        are at most that if the clips' length is known (`for_clips`).
        """
        config = TrialConfig.from_flat({**self.fixed, **params, "epochs": epochs, "seed": seed})
        if self.clip_frames is None:
            return config
        windows = self._windows(config.patch.stride, config.model.model)
        clipped = {"n_patches": min(config.patch.n_patches, windows)}
        if config.score.score_windows == "stride":
            clipped["score_patches"] = min(config.score.score_patches, windows)
        return config.replace(**clipped)

    def _windows(self, stride: int, model: str) -> int:
        """Number of windows in the longest clip, each as long as a patch of the model."""
        assert self.clip_frames is not None
        return max(1, (self.clip_frames - geometry_named(model).patch_frames) // stride + 1)

    def canonical(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Maps all proposals that mean the same configuration to the one that a study holds.

        Any n_patches at or above the number of windows gives that many patches. The smallest such value in the space
        stands for all of them, so that a sampler does not mistake one configuration for several. If a condition names
        n_patches, it stays as drawn, because other parameters depend on it.
        """
        canonical = dict(params)
        distribution = {parameter.name: parameter.distribution for parameter in self.parameters}.get("n_patches")
        is_condition = any(parameter.when and parameter.when.parameter == "n_patches" for parameter in self.parameters)
        if self.clip_frames is None or distribution is None or "n_patches" not in params or is_condition:
            return canonical
        known = {**_defaults(), **self.fixed, **params}
        windows = self._windows(known["stride"], known["model"])
        if params["n_patches"] > windows:
            canonical["n_patches"] = distribution.lowest_from(windows)
        return canonical

    def for_clips(self, frames: int) -> "Space":
        """This space for clips of at most `frames` frames."""
        return replace(self, clip_frames=frames)

    def default_config(self, *, epochs: int) -> TrialConfig:
        """The project's default configuration with the space's fixed values."""
        return self.config({}, epochs=epochs, seed=0)

    @property
    def longest_warmup(self) -> int:
        """The most epochs that a commitment warm-up may last in this space."""
        for parameter in self.parameters:
            if parameter.name == "commitment_warmup_epochs":
                if isinstance(parameter.distribution, Choices):
                    return int(max(parameter.distribution.values))
                return math.floor(parameter.distribution.high)
        return int(self.fixed.get("commitment_warmup_epochs", 0))
