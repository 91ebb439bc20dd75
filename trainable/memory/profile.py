"""What a device takes beside the tensors of a trace, quantity by quantity, and how fast it executes a plan.

The built-in values are *not measured*: they are documented defaults of PyTorch and CUDA, or estimates where
nothing is documented, and err on the large side. `benchmarks/gpu_memory.py` measures them on a GPU,
`DeviceProfile.save` and `load` keep them, `recalibrated` corrects them by the peaks that trials report.
"""

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from trainable.durable import write_text
from trainable.errors import ConfigError
from trainable.execution_plan import Precision
from trainable.typed import Within, build
from trainable.units import MIB

_log = logging.getLogger(__name__)

_COMPUTED_NOW = frozenset({"small_segment_bytes", "large_segment_bytes", "fragmentation_share"})
"""Quantities of profiles that were saved before the allocator's rules were replayed (`trainable.memory.replay`)."""
PROFILES = Path(__file__).parent / "profiles"
"""Measured profiles that come with the project, one JSON file each, found by the GPU's name."""

MOST_BYTES = 2**50
"""1 PiB, more than any machine has."""
Bytes = Annotated[int, Within(low=0, high=MOST_BYTES)]
Factor = Annotated[float, Within(low=0.0, high=1e6)]
"""A share, or a number of patches or parts."""
Rate = Annotated[float, Within(above=0.0, high=1e30)]
RATES = ("flops_per_second", "bytes_per_second", "launch_seconds")
"""Quantities that tell how long some work takes; a profile may lack them."""


@dataclass(frozen=True, kw_only=True)
class MeasuredPeak:
    """A peak that a trial measured, and the prediction for its allocator."""

    predicted_bytes: int
    """Prediction for the allocator, without margin (`Prediction.allocated_bytes`)."""
    measured_bytes: int
    """``torch.cuda.max_memory_allocated``."""


@dataclass(frozen=True, kw_only=True)
class DeviceProfile:
    """Quantities of one kind of GPU with one version of PyTorch and CUDA."""

    name: str = "built-in"
    measured: bool = False
    """Whether the values were measured on this device rather than built in."""

    total_bytes: Annotated[int, Within(low=1, high=MOST_BYTES)] | None = None
    """Memory of the card; None where unknown."""
    reserve_bytes: Bytes = 512 * MIB
    """Left free on a card beside all budgets: driver, display, other processes. Estimate."""

    context_bytes: Bytes = 480 * MIB
    """CUDA context of a process and the kernels loaded into it, outside PyTorch's allocator. Estimate."""
    library_bytes: Bytes = 64 * MIB
    """Handles of cuBLAS and cuDNN, outside PyTorch's allocator. Estimate."""

    cublas_workspace_bytes: Bytes = 2 * (2 * 4096 + 8 * 16) * 1024
    """Workspaces of cuBLAS, from the allocator: `CUBLAS_WORKSPACE_CONFIG` as `cap` pins it, for the thread that runs
    the forward pass and the one that runs the backward pass. Documented."""
    cublaslt_workspace_bytes: Bytes = 0
    """Workspaces of cuBLASLt beside them: none, since `cap` makes it share cuBLAS's. Documented."""
    convolution_workspace_share: Factor = 1.0
    """Workspace of a convolution that is not depthwise, as a share of its input and output bytes: cuDNN turns both
    into the layout of its tensor-core kernels. Estimate."""
    split_sums: Factor = 64.0
    """Parts in which cuDNN sums up the gradient of a convolution's weights, so that small batches fill the card too:
    each takes as many bytes as the weights. Measured on an H100."""
    split_sums_most_bytes: Bytes = 8 * MIB
    """At most this much: larger weights are summed in fewer parts. Likewise."""

    block_bytes: Annotated[int, Within(low=1, high=2**30)] = 512
    """The allocator rounds every block up to this. Documented (``kMinBlockSize``)."""
    expandable_segments: bool = True
    """Whether the driver allows segments that grow (`trainable.device.cap.expandable_segments_work`)."""
    margin_share: Factor = 0.03
    """What a prediction adds so that it does not under-predict, as a share of the allocator's bytes. Estimate."""

    amp_precision: Precision = "amp_bfloat16"
    """The type for mixed precision on this device; float16 if it has no bfloat16."""

    micro_batch_patches: Factor = 32.0
    """Time of starting one micro-batch's kernels, in patches that could have been trained meanwhile. Estimate."""
    chunk_patches: Factor = 0.5
    """Time of starting one chunk of distances, likewise. Estimate."""
    recompute_encoder_share: Factor = 0.15
    """Time that recomputing the encoder adds, as a share of the step's. Estimate."""
    recompute_decoder_share: Factor = 0.18
    """The same for the decoder. Estimate."""
    host_share: Factor = 0.10
    """Time that cutting patches on the host and copying them adds, likewise. Estimate."""
    amp_time_share: Factor = 0.7
    """Time of a step in mixed precision, as a share of that in float32. Estimate."""

    flops_per_second: Rate | None = None
    """Arithmetic in training (`trainable.timing`), and likewise the two below: None = unknown."""
    bytes_per_second: Rate | None = None
    """What kernels read and write."""
    launch_seconds: Rate | None = None
    """What an operator costs the host that starts its kernel."""

    @property
    def outside_bytes(self) -> int:
        """What the process takes outside PyTorch's allocator."""
        return self.context_bytes + self.library_bytes

    @property
    def workspace_bytes(self) -> int:
        """Workspaces that stay in the allocator once allocated."""
        return self.cublas_workspace_bytes + self.cublaslt_workspace_bytes

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "DeviceProfile":
        """The inverse of `to_dict`. Raises ConfigError for a quantity that is unknown or beyond its range.

        Ignores quantities of earlier versions that are computed now.
        """
        try:
            return build(cls, {name: value for name, value in values.items() if name not in _COMPUTED_NOW})
        except ValueError as error:
            raise ConfigError(f"device profile: {error}; see trainable.memory.profile") from None

    def save(self, path: Path) -> None:
        """Writes the profile as JSON."""
        write_text(path, json.dumps(self.to_dict(), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> "DeviceProfile":
        """Reads a profile. Raises ConfigError if the file is missing or not a profile."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"device profile {path} cannot be read: {' '.join(str(error).split())}") from None
        if not isinstance(values, dict):
            raise ConfigError(f"device profile {path} does not hold a JSON object")
        return cls.from_dict(values)

    @classmethod
    def for_gpu(cls, gpu: str | None, folder: Path = PROFILES) -> "DeviceProfile":
        """The profile measured on a GPU of that name, or the built-in one with a warning.

        Parameters
        ----------
        gpu
            As ``torch.cuda.get_device_name`` returns it; None when only planning for a GPU elsewhere.
        """
        if gpu is None:
            return cls()
        for path in sorted(folder.glob("*.json")):
            profile = cls.load(path)
            if profile.name == gpu:
                return profile
        _log.warning(
            "no profile was measured on %s: memory is predicted with built-in estimates (docs/memory.md says how to "
            "measure one; --profile names its file)",
            gpu,
        )
        return cls()

    @property
    def thread_workspace_bytes(self) -> int:
        """The workspaces of one of the two threads that use cuBLAS."""
        return self.workspace_bytes // 2

    def with_segments(self, expandable: bool) -> "DeviceProfile":
        """The profile for a driver that allows expandable segments, or refuses them."""
        return replace(self, expandable_segments=expandable)

    def recalibrated(self, peaks: Iterable[MeasuredPeak]) -> "DeviceProfile":
        """The profile whose margin covers every measured peak: the largest under-prediction plus one percent.

        If all are over-predictions the margin is that one percent. Without a peak the profile does not change.
        """
        errors = [peak.measured_bytes / peak.predicted_bytes - 1.0 for peak in peaks if peak.predicted_bytes > 0]
        if not errors:
            return self
        return replace(self, measured=True, margin_share=max(0.0, *errors) + 0.01)
