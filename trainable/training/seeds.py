"""Every random draw of a trial from one seed, by name: data order, patches, transformations, revival, k-means.

A draw depends on (seed, purpose, epoch, step) alone, so there is no generator to save: a resumed trial draws what the
undisturbed one would have drawn, and no plan, device or neighbouring draw can move it.
"""

import hashlib
from typing import Literal

import torch

Purpose = Literal["order", "patches", "transforms", "revival", "views", "kmeans", "density"]


def derived_seed(seed: int, purpose: Purpose, epoch: int = 0, step: int = 0) -> int:
    """A separate 63-bit seed for each purpose, epoch and step."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{epoch}/{step}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator_for(seed: int, purpose: Purpose, epoch: int = 0, step: int = 0) -> torch.Generator:
    """A separate CPU generator for each purpose, epoch and step."""
    return torch.Generator().manual_seed(derived_seed(seed, purpose, epoch, step))
