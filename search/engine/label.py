"""A trial's readable name in MLflow, the process list and Ray's dashboard."""

from trainable.record import TrialStart


def label_of(space: str, start: TrialStart) -> str:
    """Space, number and first three parameters of a trial."""
    used = list(start.used.items())[:3]
    shown = [f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}" for name, value in used]
    return f"{space} {start.number:05d} " + " ".join(shown)
