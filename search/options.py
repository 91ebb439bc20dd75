"""What was asked of a search, validated once at the door."""

import hashlib
import os
from dataclasses import asdict, dataclass, field
from typing import Any

from trainable.checkpoint_place import check_address
from trainable.config import DataConfig
from trainable.errors import BudgetError, ConfigError
from trainable.memory.profile import DeviceProfile
from trainable.redaction import holds_credentials
from trainable.units import GIB

MOST_TRIALS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Everything about a search but its space."""

    space: str
    """Name or path as it was given."""
    data: DataConfig = field(default_factory=DataConfig)
    num_samples: int = 20
    """Trials that start; a proposal that fits no plan is recorded beside them and not counted."""
    max_epochs: int = 9
    grace_period: int = 3
    reduction_factor: int = 3
    budget_bytes: int | None = None
    concurrency: int | None = None
    """Trials at a time; None leaves it to the runner (cores, or GPUs divided by the budget)."""
    seed: int = 0
    time_limit_seconds: float | None = None
    """Seconds after which nothing new starts and what runs is stopped at its next epoch."""
    local: bool = False
    address: str | None = None
    storage_path: str | None = None
    study_storage: str | None = None
    study_name: str | None = None
    """Study in `study_storage`; None = the run's own. Drivers that name the same one share their results."""
    warm_start: str | None = None
    checkpoint_limit_bytes: int | None = 10 * GIB
    """Ceiling on the bytes of all checkpoints of the search, running trials' too; None = none.

    The default is ten times what 64 running trials and the best five keep of models with 8,192 codes (207 files of
    5 MB): it is there for the disk, not for the search.
    """
    mlflow: str | None = None
    """Tracking address of an MLflow server to log trials to as well. On Ray only."""
    max_failures: int = 2
    """Restarts of one trial from its checkpoint before it counts as crashed."""
    trial_timeout_seconds: float | None = 3600.0
    """Seconds without a report after which a trial fails (on Ray its worker is replaced); None waits for ever."""
    startup_trials: int | None = None
    """Random proposals before TPE; None = a third of the trials, 4 … 10."""
    device: str = "auto"
    profile: dict[str, Any] | None = None
    """Quantities of the device profile that was named (`DeviceProfile.to_dict`); None = found by the GPU's name."""
    memory_saver: bool = False
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
        if self.budget_bytes is not None and self.budget_bytes <= 0:
            raise BudgetError(f"--gpu-memory-budget is {self.budget_bytes} bytes; it must be greater than zero")
        if self.profile is not None:
            DeviceProfile.from_dict(self.profile)
        if self.storage_path is not None:
            check_address(self.storage_path)
        if self.mlflow is not None and holds_credentials(self.mlflow):
            raise ConfigError(
                "--mlflow holds a user, a password or a query, and a run's folder keeps the address; "
                "give them by the environment (MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD)"
            )
        if self.local and self.mlflow:
            raise ConfigError("--mlflow goes through Ray's callback; leave out --local or --mlflow")
        if self.local and self.address:
            raise ConfigError("--local runs in this process and --address joins a cluster; give one of them")

    @property
    def startup(self) -> int:
        """Random proposals before TPE."""
        return self.startup_trials or max(4, min(10, self.num_samples // 3))

    @property
    def workers(self) -> int:
        """Trials at a time where nothing else decides: one a core, or one in this process."""
        if self.concurrency is not None:
            return self.concurrency
        return 1 if self.local else len(os.sched_getaffinity(0))

    def trial_seed(self, index: int) -> int:
        """A trial's own seed, 0 … 2³¹ − 1, from the search's seed and the proposal's number."""
        digest = hashlib.sha256(f"trial {self.seed} {index}".encode()).digest()
        return int.from_bytes(digest[:4], "big") & 0x7FFF_FFFF

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values for the manifest; a storage URL is left out, since it may hold a password."""
        values = asdict(self)
        values["data"] = self.data.to_dict()
        del values["study_storage"]
        return values


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
