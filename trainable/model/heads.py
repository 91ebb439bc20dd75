"""Semantic heads: which machine made this sound, and what was done to it."""

from torch import Tensor, nn

from trainable.config import ModelConfig
from trainable.model.transforms import TRANSFORMS


class SemanticHeads(nn.Module):
    """Two small classifiers on the continuous latent averaged over a clip's patches and grid.

    Self-supervision by machine id and by transformation is what the best systems of DCASE 2020 Task 2 had in common
    (Giri et al. 2020; Primus et al. 2020).
    """

    def __init__(self, config: ModelConfig, n_ids: int):
        super().__init__()
        self.machine_id = _classifier(config, n_ids)
        self.transform = _classifier(config, len(TRANSFORMS))


def _classifier(config: ModelConfig, classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(config.latent_dim, config.head_hidden), nn.SiLU(), nn.Linear(config.head_hidden, classes)
    )


def clip_latents(latents_XDHW: Tensor, patches: int) -> Tensor:
    """Latents averaged over grid and patches: (B·patches, D, H, W) → (B, D)."""
    return latents_XDHW.mean(dim=(2, 3)).unflatten(0, (-1, patches)).mean(dim=1)
