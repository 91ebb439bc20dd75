"""The whole model: encoder, codebook, decoder, texture and semantic heads."""

import torch
from torch import Tensor, nn

from trainable.config import TrialConfig
from trainable.model.codebook import Codebook
from trainable.model.decoder import Decoder
from trainable.model.encoder import Encoder
from trainable.model.heads import SemanticHeads
from trainable.model.texture import TextureHead
from trainable.model.transforms import noise_template


class VQVAE(nn.Module):
    """VQ-VAE (van den Oord et al. 2017) on 64 × 64 log-mel patches, with semantic heads."""

    noise_M: Tensor

    def __init__(self, config: TrialConfig, n_ids: int):
        super().__init__()
        self.encoder = Encoder(config.model)
        self.codebook = Codebook(config.quantizer, config.model)
        self.decoder = Decoder(config.model)
        self.heads = SemanticHeads(config.model, n_ids)
        self.texture = TextureHead(config.model.latent_dim) if config.loss.texture_weight > 0 else None
        self.register_buffer("noise_M", noise_template(), persistent=False)


def make_model(config: TrialConfig, n_ids: int) -> VQVAE:
    """A model whose initial weights come from the trial's seed alone; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return VQVAE(config, n_ids)
