"""All settings of a search except its space, validated here, once."""

import hashlib
import re
from dataclasses import asdict, dataclass, field
from typing import Any

from search.registry import LISTENERS, SAMPLERS
from trainable.checkpoint_place import check_address
from trainable.commandline import (
    check_device,
)
from trainable.config import DataConfig, nearest
from trainable.errors import BudgetError, ConfigError
from trainable.execution_plan import PlanRequest
from trainable.host import available_cores
from trainable.memory.profile import DeviceProfile
from trainable.redaction import holds_credentials
from trainable.registry import EXTENSIONS, Registry
from trainable.units import GIB

_WANDB = re.compile(r"(?:[^/\\#?%:\s]+/)?[^/\\#?%:\s]{1,128}")
MOST_TRIALS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """All settings of a search except its space."""

    space: str
    """Name or path, as given."""
    data: DataConfig = field(default_factory=DataConfig)
    num_samples: int = 20
    """Trials to start; a proposal that fits no plan is recorded but not counted."""
    max_epochs: int = 9
    grace_period: int = 3
    reduction_factor: int = 3
    budget_bytes: int | None = None
    budget_words: str | None = None
    """What the command line called the budget, where it did."""
    concurrency: int | None = None
    """Concurrent trials; None = one per core, or as many as fit the GPUs."""
    seed: int = 0
    time_limit_seconds: float | None = None
    """Seconds after which no trial starts and running ones stop after their current epoch."""
    local: bool = False
    address: str | None = None
    storage_path: str | None = None
    study_storage: str | None = None
    study_name: str | None = None
    """Study in `study_storage`; None = the run's own. Drivers with the same study share their results."""
    warm_start: tuple[str, ...] = ()
    """Earlier runs whose best configurations are proposed first."""
    portfolio: bool = True
    """Whether configurations that did well on other recordings are proposed first."""
    checkpoint_limit_bytes: int | None = 10 * GIB
    """Limit on the total bytes of the search's checkpoints, including those of running trials; None = no limit.

    The default holds 74 MB in each of the 144 files of 64 running trials and the best eight: it protects the disk and
    does not restrict the search.
    """
    mlflow: str | None = None
    """Tracking address of an MLflow server that also receives the trials."""
    wandb: str | None = None
    """PROJECT or ENTITY/PROJECT at Weights & Biases that also receives the trials."""
    max_failures: int = 2
    """Restarts of one trial from its checkpoint before it counts as crashed."""
    trial_timeout_seconds: float | None = 3600.0
    """Seconds without a report after which a trial fails (on Ray its worker is replaced); None = no limit."""
    sampler: str = "tpe"
    """A name in `search.registry.SAMPLERS`."""
    listeners: tuple[str, ...] = ()
    """Names in `search.registry.LISTENERS`: listeners beside those that every search has."""
    startup_trials: int | None = None
    """Random proposals before the sampler trusts what it learned; None = a third of the trials, 4 … 10."""
    until_flat: float | None = None
    """No trial starts once more of them are expected to bring less than this (`trainable.detection.gain`); None = the
    search runs `num_samples`, as it does with 0."""
    prefer_fast: bool = False
    """Whether the sampler looks for the best value for its time: expected improvement per second."""
    device: str = "auto"
    profile: dict[str, Any] | None = None
    """Values of the device profile given by the user (`DeviceProfile.to_dict`); None = chosen by the GPU's name."""
    memory_saver: bool = False
    smallest_plan: bool = False
    use_amp: bool | None = None
    use_gradient_checkpointing: bool | None = None
    gradient_accumulation_steps: int | None = None

    def __post_init__(self) -> None:
        for name, low, high in (
            ("num_samples", 1, MOST_TRIALS),
            ("max_epochs", 1, 100_000),
            ("grace_period", 1, 100_000),
            ("reduction_factor", 2, 1_000),
            ("concurrency", 1, 100_000),
            ("seed", 0, 2**31 - 1),
            ("max_failures", 0, 1_000),
            ("startup_trials", 1, MOST_TRIALS),
            ("gradient_accumulation_steps", 1, 4096),
        ):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or not low <= value <= high):
                raise ConfigError(f"{_flag(name)} is {value!r}; it must be an integer in {low} … {high}")
        for flag, seconds in (
            ("--time-limit", self.time_limit_seconds),
            ("--trial-timeout", self.trial_timeout_seconds),
        ):
            if seconds is not None and not 0 < seconds < float("inf"):
                raise ConfigError(f"{flag} is {seconds:g} s; it must be greater than zero")
        if self.until_flat is not None and not 0 <= self.until_flat < 1:
            raise ConfigError(f"--until-flat is {self.until_flat:g}; it must be at least 0 and below 1, such as 0.002")
        if self.budget_bytes is not None and self.budget_bytes <= 0:
            raise BudgetError(f"--gpu-memory-budget is {self.budget_bytes} bytes; it must be greater than zero")
        if self.profile is not None:
            DeviceProfile.from_dict(self.profile)
        if self.storage_path is not None:
            check_address(self.storage_path)
        if self.mlflow is not None and holds_credentials(self.mlflow):
            raise ConfigError(
                "--mlflow contains a user, a password or a query, and the run's folder would store it; "
                "use the environment variables MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead"
            )
        if self.wandb is not None and not _WANDB.fullmatch(self.wandb):
            raise ConfigError("--wandb must be PROJECT or ENTITY/PROJECT; WANDB_BASE_URL names a server of your own")
        for flag, known, names in (("--sampler", SAMPLERS, (self.sampler,)), ("--listener", LISTENERS, self.listeners)):
            for name in names:
                _check_known(flag, known, name)
        if self.prefer_fast and self.sampler == "random":
            raise ConfigError("--prefer-fast changes nothing with --sampler random, which learns nothing; remove one")
        check_device(self.device)
        if ":" in self.device and not self.local:
            raise ConfigError(f"--device {self.device} names one GPU, which takes --local; without it, use cuda")
        if self.local and self.address:
            raise ConfigError("--local runs in this process and --address joins a cluster; give only one of them")
        self.plan_request(None)

    @property
    def startup(self) -> int:
        """Random proposals before the sampler trusts what it learned."""
        return self.startup_trials or max(4, min(10, self.num_samples // 3))

    @property
    def workers(self) -> int:
        """Concurrent trials: as requested, else one with `local`, else one per core."""
        if self.concurrency is not None:
            return self.concurrency
        return 1 if self.local else available_cores()

    def trial_seed(self, index: int) -> int:
        """The seed of a trial, 0 … 2³¹ − 1, derived from the search's seed and the proposal's number."""
        digest = hashlib.sha256(f"trial {self.seed} {index}".encode()).digest()
        return int.from_bytes(digest[:4], "big") & 0x7FFF_FFFF

    def plan_request(self, micro_batch_clips: int | None) -> PlanRequest:
        """The parts of a plan that these options fix. Raises ConfigError if they contradict each other."""
        return PlanRequest(
            micro_batch_clips=micro_batch_clips,
            recompute=self.use_gradient_checkpointing,
            amp=self.use_amp,
            memory_saver=self.memory_saver,
            smallest=self.smallest_plan,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values for the manifest; a storage URL is left out, since it may hold a password."""
        values = asdict(self)
        values |= {"data": self.data.to_dict(), "listeners": list(self.listeners), "warm_start": list(self.warm_start)}
        del values["study_storage"]
        return values


def _check_known(flag: str, known: Registry, name: str) -> None:
    """Raises ConfigError, with the nearest valid name, if nothing of that name is registered."""
    names = known.names()
    if name not in names:
        raise ConfigError(
            f"{flag} is {name!r}; there are {', '.join(names) or 'none yet'}, and others "
            f"where {EXTENSIONS} names the module that registers them{nearest(name, names)}"
        )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
