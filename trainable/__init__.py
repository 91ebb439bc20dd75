"""What one trial does: data, model, phases, memory, scoring.

May import torch, numpy, scikit-learn (soundfile and scipy where a wav is read). Knows neither Optuna nor,
`ray_trainable.py` aside, Ray.
"""
