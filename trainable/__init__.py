"""What one trial does: data, model, phases, memory, scoring.

May import torch, numpy, scikit-learn (soundfile and scipy where a wav is read). Knows neither Optuna nor,
`ray_trainable.py` aside, Ray.

    from trainable import Detector

    Detector.load("runs/fan/detector").score("recordings/clip.wav")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainable.detection.detector import ClipScore, Detector

__all__ = ["ClipScore", "Detector"]


def __getattr__(name: str) -> Any:
    """What `__all__` names, imported when it is first used: a command's --help needs no torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("trainable.detection.detector"), name)
