"""One Gaussian on a vector of numbers a clip: B clips, F numbers."""

import torch
from sklearn.covariance import ledoit_wolf
from torch import Tensor


def gaussian_of(numbers_BF: Tensor) -> dict[str, Tensor]:
    """``centre`` (F,) and ``precision`` (F, F), the inverse of a Ledoit–Wolf covariance (2004), of float64 numbers."""
    # One clip has no covariance at all: every direction counts equally.
    covariance = (
        torch.from_numpy(ledoit_wolf(numbers_BF.numpy())[0])
        if len(numbers_BF) > 1
        else torch.eye(numbers_BF.shape[1], dtype=torch.float64)
    )
    # A group of identical clips has no covariance either; the ridge keeps its distances finite.
    ridge = 1e-9 + 1e-9 * covariance.diagonal().mean()
    precision = torch.linalg.inv(covariance + ridge * torch.eye(len(covariance), dtype=torch.float64))
    return {"centre": numbers_BF.mean(dim=0), "precision": precision}


def mahalanobis_distances(gaussian: dict[str, Tensor], numbers_BF: Tensor) -> Tensor:
    """Squared Mahalanobis distance of each clip from the centre, divided by the number of dimensions, (B,)."""
    gaps = numbers_BF - gaussian["centre"]
    return (gaps @ gaussian["precision"] * gaps).mean(dim=1)
