"""Grid of code vectors → patch: the encoder mirrored."""

from torch import Tensor, nn

from trainable.config import ModelConfig
from trainable.model.geometry import Geometry
from trainable.model.layers import SeparableConv, Upsample, grid_strides, run_segments, scaled_channels
from trainable.model.residual import residual_blocks, segments


class Decoder(nn.Module):
    """8 × 8 → 16 → 32 → 64 × 64 with channels latent_dim-96-64-32 times `width`.

    With the full `stem` another stage has 64 × 64, from which the last convolution makes the patch; each stage begins
    with `depth` residual blocks.
    """

    def __init__(self, config: ModelConfig, geometry: Geometry):
        super().__init__()
        first, second, third = (scaled_channels(channels, config.width) for channels in (32, 64, 96))
        strides = grid_strides(geometry)

        def blocks(channels: int) -> list[nn.Module]:
            return residual_blocks(config.depth, channels)

        self.segments = segments(
            [
                nn.Conv2d(config.latent_dim, third, 1),
                nn.SiLU(),
                *blocks(third),
                SeparableConv(third, second),
                Upsample(*strides[2]),
            ],
            [
                *blocks(second),
                SeparableConv(second, first),
                Upsample(*strides[1]),
                *blocks(first),
                *_last_doubling(config, first),
            ],
        )

    def forward(self, quantized_XDHW: Tensor, *, recompute: bool = False) -> Tensor:
        """Reconstructed patches (X, 64, 64)."""
        return run_segments(self.segments, quantized_XDHW, recompute=recompute).squeeze(1)


def _last_doubling(config: ModelConfig, channels: int) -> list[nn.Module]:
    """32 × 32 → 64 × 64, and channels to one."""
    if config.stem == "full":
        return [
            SeparableConv(channels, channels),
            Upsample(2, 2),
            *residual_blocks(config.depth, channels),
            nn.Conv2d(channels, 1, 3, padding=1),
        ]
    # A pixel shuffle (Shi et al. 2016): 64 × 64 never exists in 32 channels.
    return [nn.Conv2d(channels, 4, 3, padding=1), nn.PixelShuffle(2)]
