"""Patch → 8 × 8 grid of latents."""

from torch import Tensor, nn

from trainable.config import ModelConfig
from trainable.model.layers import CHANNEL_MULTIPLE, SeparableConv, run_segments, scaled_channels


class Encoder(nn.Module):
    """64 × 64 → 32 → 16 → 8 × 8 with channels 32-64-96-latent_dim times `width`."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        first, second, third = (scaled_channels(channels, config.width) for channels in (32, 64, 96))
        # The first segment holds the large grids and passes on the small one: 64 × 16 × 16.
        self.segments = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Conv2d(1, first, 3, stride=2, padding=1, bias=False),
                    nn.GroupNorm(first // CHANNEL_MULTIPLE, first),
                    nn.SiLU(),
                    SeparableConv(first, second, stride=2),
                ),
                nn.Sequential(
                    SeparableConv(second, third, stride=2),
                    nn.Conv2d(third, config.latent_dim, 1),
                ),
            ]
        )

    def forward(self, patches_XFT: Tensor, *, recompute: bool = False) -> Tensor:
        """Latents (X, D, 8, 8) of X patches (X, 64, 64); rows of the grid are frequency, columns time."""
        return run_segments(self.segments, patches_XFT.unsqueeze(1), recompute=recompute)
