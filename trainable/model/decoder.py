"""Grid of code vectors → patch: the encoder mirrored."""

from torch import Tensor, nn

from trainable.config import ModelConfig
from trainable.model.geometry import Geometry
from trainable.model.layers import SeparableConv, Upsample, run_segments, scaled_channels, time_strides


class Decoder(nn.Module):
    """8 × 8 → 16 → 32 → 64 × 64 with channels latent_dim-96-64-32 times `width`."""

    def __init__(self, config: ModelConfig, geometry: Geometry):
        super().__init__()
        first, second, third = (scaled_channels(channels, config.width) for channels in (32, 64, 96))
        strides = time_strides(geometry)
        self.segments = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Conv2d(config.latent_dim, third, 1),
                    nn.SiLU(),
                    SeparableConv(third, second),
                    Upsample(2, strides[2]),
                ),
                nn.Sequential(
                    SeparableConv(second, first),
                    Upsample(2, strides[1]),
                    nn.Conv2d(first, 4, 3, padding=1),
                    # The last doubling is a pixel shuffle (Shi et al. 2016): 64 × 64 never exists in 32 channels.
                    nn.PixelShuffle(2),
                ),
            ]
        )

    def forward(self, quantized_XDHW: Tensor, *, recompute: bool = False) -> Tensor:
        """Reconstructed patches (X, 64, 64)."""
        return run_segments(self.segments, quantized_XDHW, recompute=recompute).squeeze(1)
