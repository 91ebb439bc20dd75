"""The whole model: encoder, codebook, decoder, texture and semantic heads."""

import torch
from torch import Tensor, nn

from trainable.config import TrialConfig
from trainable.model.architecture import architecture_named, make_codebook
from trainable.model.heads import SemanticHeads
from trainable.model.texture import TextureHead
from trainable.model.transforms import noise_template
from trainable.registry import ARCHITECTURES, LOSS_TERMS

PATCHES_AT_ONCE = 32
"""Patches that the encoder takes at a time on the CPU: of 128 patches most of each grid would leave its caches before
the next layer reads it (`python -m benchmarks.throughput`)."""


class VQVAE(nn.Module):
    """VQ-VAE (van den Oord et al. 2017) on log-mel patches, with semantic heads.

    Raises ConfigError for a `model` or `quantizer` that is not registered.
    """

    noise_M: Tensor

    def __init__(self, config: TrialConfig, n_ids: int):
        super().__init__()
        architecture = architecture_named(config.model.model)
        self.geometry = architecture.geometry_for(config.model)
        self._own_architecture = config.model.model in ARCHITECTURES.own
        self.encoder = architecture.encoder(config.model, self.geometry)
        self.codebook = make_codebook(config.quantizer, config.model, self.geometry)
        self.decoder = architecture.decoder(config.model, self.geometry)
        self.heads = SemanticHeads(config.model, n_ids)
        self.texture = TextureHead(config.model.latent_dim) if config.loss.texture_weight > 0 else None
        terms = [LOSS_TERMS.get(name) for name in LOSS_TERMS.names()]
        heads = {term.name: term.head(config, n_ids) for term in terms if term.head is not None and term.is_on(config)}
        # Created last, and only if there are any, so that the other weights are the same without them.
        self.extra_heads = nn.ModuleDict(heads)
        self.register_buffer("noise_M", noise_template(self.geometry), persistent=False)

    def encode(self, patches_XFT: Tensor, *, recompute: bool = False) -> Tensor:
        """Latents (X, D, H, W) of X patches (X, F, T), the same up to rounding at once and a few at a time."""
        at_once = patches_XFT.device.type != "cpu" or patches_XFT.shape[0] <= PATCHES_AT_ONCE
        if at_once or not self._own_architecture:
            return self.encoder(patches_XFT, recompute=recompute)
        return torch.cat([self.encoder(part, recompute=recompute) for part in patches_XFT.split(PATCHES_AT_ONCE)])


def make_model(config: TrialConfig, n_ids: int) -> VQVAE:
    """A model whose initial weights come from the trial's seed alone; the global generator is restored."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return VQVAE(config, n_ids)
