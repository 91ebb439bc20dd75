"""How fast a device does its work, and the seconds that follow."""

from dataclasses import dataclass

from trainable.memory.profile import DeviceProfile
from trainable.timing.counter import Work


@dataclass(frozen=True)
class Seconds:
    """What a device and its host need for some work; the host starts kernels while the device runs earlier ones."""

    device: float
    """Arithmetic and memory traffic."""
    host: float
    """Starting the kernels."""

    @property
    def alone(self) -> float:
        """Seconds of a trial that shares the device with no other."""
        return max(self.device, self.host)


@dataclass(frozen=True)
class Speed:
    """Rates that a device reaches in training."""

    flops_per_second: float
    bytes_per_second: float
    launch_seconds: float
    """Of the host, for an operator that starts a kernel: Python, autograd and the launch itself."""

    measured: bool = True
    """Whether seconds may be told; of an estimate only ratios may."""

    @classmethod
    def of(cls, profile: DeviceProfile, device: str) -> "Speed":
        """The rates in a profile; where it lacks one, and on a CPU, an estimate."""
        if device == "cpu":
            return CPU_ESTIMATE
        flops, moved_bytes, launch = profile.flops_per_second, profile.bytes_per_second, profile.launch_seconds
        if flops is None or moved_bytes is None or launch is None:
            return GPU_ESTIMATE
        return cls(flops, moved_bytes, launch)

    def seconds(self, work: Work) -> Seconds:
        device = work.flops / self.flops_per_second + work.moved_bytes / self.bytes_per_second
        return Seconds(device, work.launches * self.launch_seconds)


CPU_ESTIMATE = Speed(flops_per_second=2e11, bytes_per_second=5e9, launch_seconds=5e-5, measured=False)
"""Of one core; `python -m benchmarks.epoch_time` compares it with recorded epochs.

Operations are counted as on a GPU: of a repetition and the 3 × 3 convolution after it a CPU does 4 of 9 products."""
GPU_ESTIMATE = Speed(flops_per_second=3e13, bytes_per_second=3e11, launch_seconds=5e-5, measured=False)
"""Of a desktop card: an H100 has about 2.5 times the memory traffic, and the host launches kernels as fast."""
