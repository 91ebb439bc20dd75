"""A trial's name for people: in MLflow, in the process list and in Ray's dashboard."""

from trainable.record import TrialStart


def label_of(space: str, start: TrialStart) -> str:
    """Readable name of a trial: space, number and its first parameters."""
    used = list(start.used.items())[:3]
    shown = [f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}" for name, value in used]
    return f"{space} {start.number:05d} " + " ".join(shown)
