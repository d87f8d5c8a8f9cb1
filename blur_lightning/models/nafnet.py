"""NAFNet: a U-shaped network for restoration without nonlinear activation functions.

Source: Chen, Chu, Zhang and Sun 2022, *Simple Baselines for Image Restoration* (arXiv 2204.04676),
sections 3 and 4, written from that description. Images (b, 3, h, w) of any size.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from typing_extensions import override

from blur_lightning.errors import InputError
from blur_lightning.tiles import extended


class NAFNet(nn.Module):
    """Blocks of convolutions and gates at several scales, whose output is added to the image.

    The defaults are the paper's for GoPro at width 32: 17.1 million weights.

    Args:
        width: Channels at full resolution, 1 or more; each scale has twice those of the one before.
        encoder_blocks: Blocks at each scale on the way down.
        middle_blocks: Blocks at the coarsest scale.
        decoder_blocks: Blocks at each scale on the way up, the coarse ones first; as many scales as
            on the way down.
    """

    def __init__(
        self,
        width: int = 32,
        encoder_blocks: Sequence[int] = (1, 1, 1, 28),
        middle_blocks: int = 1,
        decoder_blocks: Sequence[int] = (1, 1, 1, 1),
    ) -> None:
        super().__init__()
        if width < 1 or min(middle_blocks, *encoder_blocks, *decoder_blocks) < 0:
            raise InputError("model.net: width must be 1 or more, numbers of blocks 0 or more")
        if len(encoder_blocks) != len(decoder_blocks):
            raise InputError(
                f"model.net.decoder_blocks: {len(decoder_blocks)} scales, but encoder_blocks has "
                f"{len(encoder_blocks)}; name as many"
            )
        scales = [width * 2**level for level in range(len(encoder_blocks))]
        self.stride = 2 ** len(scales)
        self.intro = nn.Conv2d(3, width, 3, padding=1)
        self.encoders = nn.ModuleList(map(_blocks, scales, encoder_blocks))
        self.downs = nn.ModuleList(nn.Conv2d(c, 2 * c, 2, stride=2) for c in scales)
        self.middle = _blocks(width * self.stride, middle_blocks)
        self.ups = nn.ModuleList(_upsampling(2 * c) for c in reversed(scales))
        self.decoders = nn.ModuleList(map(_blocks, reversed(scales), decoder_blocks))
        self.ending = nn.Conv2d(width, 3, 3, padding=1)

    @override
    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Restore images; values may leave [0, 1]."""
        rows, columns = image.shape[-2:]
        blurry = extended(image, self.stride)
        features, skipped = self.intro(blurry), []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            skipped.append(encoder(features))
            features = down(skipped[-1])
        features = self.middle(features)
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            features = decoder(up(features) + skipped.pop())
        return (self.ending(features) + blurry)[..., :rows, :columns]


class _Block(nn.Module):
    """Two residual branches: one that looks at neighbours and at the whole, one at single pixels.

    Both are scaled for each channel by a weight that begins with 0, so that a new block changes
    nothing (the paper's figure 3 shows the branches, section 4.3 the gate and the attention).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm2d(channels)
        self.expand1 = nn.Conv2d(channels, 2 * channels, 1)
        self.depthwise = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.attention = nn.Conv2d(channels, channels, 1)
        self.project1 = nn.Conv2d(channels, channels, 1)
        self.norm2 = LayerNorm2d(channels)
        self.expand2 = nn.Conv2d(channels, 2 * channels, 1)
        self.project2 = nn.Conv2d(channels, channels, 1)
        self.scale1 = nn.Parameter(torch.zeros(channels, 1, 1))
        self.scale2 = nn.Parameter(torch.zeros(channels, 1, 1))

    @override
    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        gated = _gate(self.depthwise(self.expand1(self.norm1(features))))
        attended = gated * self.attention(gated.mean(dim=(2, 3), keepdim=True))
        features = features + self.scale1 * self.project1(attended)
        gated = _gate(self.expand2(self.norm2(features)))
        return features + self.scale2 * self.project2(gated)


def _gate(features: Tensor) -> Tensor:
    """Multiply one half of the channels by the other: the only nonlinearity."""
    first, second = features.chunk(2, dim=1)
    return first * second


def _blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(_Block(channels) for _ in range(count)))


def _upsampling(channels: int) -> nn.Sequential:
    """Twice the size with half of the channels."""
    return nn.Sequential(nn.Conv2d(channels, 2 * channels, 1, bias=False), nn.PixelShuffle(2))
