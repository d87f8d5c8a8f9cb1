"""Vision transformers that see only some patches of an image, chosen by how blurry each is.

Kim, Kim and Han, "Image Classification of Blurred Images Without Deblurring", sections 3.2 and 4.3:
the blur of a patch is measured by the variance of its Laplacian, and patches beyond a threshold of
100 are set to zero. A high variance is a sharp patch, and yet the paper's sentence removes "a blur
higher than 100"; both readings can be run. Here patches can also be taken out of the sequence of
tokens, so that the transformer has less to compute.
"""

import zlib
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from typing_extensions import override

from blur_lightning.errors import InputError

_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601


class PatchDrop(nn.Module):
    """A vision transformer of timm that drops patches of each image by their blur.

    Sharpness is the variance of the Laplacian (4-neighbour, each patch alone, mirrored at its edge)
    of grey values from 0 to 255 (ITU-R BT.601, not rounded): low is blurry. At least one patch of
    an image stays. An image gets the same logits alone and in any batch.

    Args:
        net: A VisionTransformer or Eva of timm, such as vit_base_patch16_224, with whatever class
            token, registers or pooling it has.
        drop: Which patches go: blurry, the ones of lowest variance, as the paper means it; sharp,
            those of highest variance, as its sentence reads; or random, as many as blurry would
            drop, drawn from the pixels of the image.
        threshold: Variance at which a patch stays; blurry drops those below, sharp those above.
        keep: Share of the patches of each image that stays, in (0, 1], in place of the threshold.
            0.75 drops what is below the lower quartile of the image's own variances.
        mode: mask sets the pixels of a patch to zero (black), as the paper does; remove takes its
            token out after the position was added, so that blocks compute less. Images that keep
            equally many patches are computed together.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        drop: Literal["blurry", "sharp", "random"] = "blurry",
        threshold: float = 100.0,
        keep: float | None = None,
        mode: Literal["mask", "remove"] = "mask",
    ) -> None:
        super().__init__()
        if not isinstance(net, VisionTransformer | Eva):
            raise InputError(
                f"model.net.net: {type(net).__name__} is neither a VisionTransformer nor an Eva of "
                "timm, from whose tokens patches can be dropped; take vit_base_patch16_224, say"
            )
        vit: Any = net  # whose types forbid what is put in place below
        self.patch_size: tuple[int, int] = vit.patch_embed.feat_ratio(as_scalar=False)
        patches: int = vit.patch_embed.num_patches
        if keep is not None and not (keep <= 1 and _count(keep, patches) >= 1):
            raise InputError(
                f"model.net.keep: {keep} of {patches} patches keeps "
                f"{'no patch' if keep <= 1 else 'more than there are'}; give at least "
                f"{1 / patches:.2g} and at most 1"
            )
        self.net, self.drop, self.threshold = net, drop, threshold
        self.keep, self.mode = keep, mode
        # timm's place for dropping tokens in training: behind the positions, before the blocks.
        self._select = _Select(vit.num_prefix_tokens, tells_indices=isinstance(net, Eva))
        vit.patch_drop = self._select
        # Under the name by which a task asks a network how its input is normalised.
        self.pretrained_cfg: dict[str, Any] = getattr(net, "pretrained_cfg", None) or {}
        rule = f"threshold {threshold:g}" if keep is None else f"keep {100 * keep:g}%"
        # What records say of the network beside its name.
        self.remark = f"{rule}, drop {drop}, {mode}"

    @override
    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Logits of normalised images from the patches that stay."""
        kept = self.kept(images)
        if self.mode == "mask":
            height, width = self.patch_size
            pixels = kept.unflatten(1, (-1, images.shape[3] // width))
            pixels = pixels.repeat_interleave(height, dim=1).repeat_interleave(width, dim=2)
            return self.net(torch.where(pixels[:, None], images, self._normalized_zero(images)))
        counts = kept.sum(dim=1)
        groups = [(counts == count).nonzero()[:, 0] for count in counts.unique()]
        logits = [self._logits(images[group], kept[group]) for group in groups]
        return torch.cat(logits)[torch.cat(groups).argsort()]

    def _logits(self, images: Tensor, kept: Tensor) -> Tensor:
        """Logits of images that keep equally many patches."""
        if not kept.all():  # else timm's own computation, to the bit
            self._select.indices = kept.nonzero()[:, 1].view(len(images), -1)
        try:
            return self.net(images)
        finally:
            self._select.indices = None

    @torch.no_grad()
    def kept(self, images: Float[Tensor, "b 3 h w"]) -> Bool[Tensor, "b n"]:
        """Which patches of normalised images stay, row by row."""
        variance = self.sharpness(images)
        if self.keep is not None:
            counts = torch.full_like(variance[:, 0], _count(self.keep, variance.shape[1]))
        elif self.drop == "sharp":
            counts = (variance <= self.threshold).sum(dim=1)
        else:
            counts = (variance >= self.threshold).sum(dim=1)
        if self.drop == "sharp":
            merit = -variance
        elif self.drop == "random":
            merit = self._random(images, variance.shape[1])
        else:
            merit = variance
        places = merit.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        return places < counts.clamp(min=1)[:, None]

    @torch.no_grad()
    def sharpness(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n"]:
        """Variance of the Laplacian of each patch of normalised images, row by row."""
        height, width = self.patch_size
        if images.shape[2] % height or images.shape[3] % width:
            raise InputError(
                f"model.net: images of {images.shape[3]} x {images.shape[2]} pixels are no whole "
                f"patches of {width} x {height}; fit --data.capture.crop to it"
            )
        # The mean of the normalisation is a constant, which has no Laplacian.
        weights = 255 * images.new_tensor(_GREY, dtype=torch.float32) * self._std(images)
        # No matrix product, which mixed precision would round.
        grey = (images.float() * weights[:, None, None]).sum(dim=1)
        patches = grey.unflatten(2, (-1, width)).unflatten(1, (-1, height))
        patches = patches.permute(0, 1, 3, 2, 4).flatten(1, 2)
        p = F.pad(patches, (1, 1, 1, 1), mode="reflect")
        vertical = p[..., :-2, 1:-1] + p[..., 2:, 1:-1]
        horizontal = p[..., 1:-1, :-2] + p[..., 1:-1, 2:]
        return (vertical + horizontal - 4 * patches).var(dim=(2, 3), correction=0)

    def _random(self, images: Tensor, number: int) -> Tensor:
        """Random merits (b, n) that depend on nothing but the 8-bit pixels of each image."""
        scale, zero = self._std(images)[:, None, None], self._normalized_zero(images).float()
        pixels = (255 * (images.float() - zero) * scale).round().byte().contiguous()
        drawn = [
            np.random.default_rng(zlib.crc32(image)).random(number)
            for image in pixels.cpu().numpy()
        ]
        return torch.from_numpy(np.stack(drawn)).to(images.device)

    def _std(self, images: Tensor) -> Float[Tensor, " 3"]:
        std = self.pretrained_cfg.get("std") or IMAGENET_DEFAULT_STD
        return images.new_tensor(std, dtype=torch.float32)

    def _normalized_zero(self, images: Tensor) -> Float[Tensor, "3 1 1"]:
        """What a black pixel became."""
        mean = self.pretrained_cfg.get("mean") or IMAGENET_DEFAULT_MEAN
        zero = -images.new_tensor(mean, dtype=torch.float32) / self._std(images)
        return zero.to(images.dtype)[:, None, None]


def _count(keep: float, patches: int) -> int:
    return round(keep * patches)


class _Select(nn.Module):
    """Takes the tokens of some patches out of a sequence; prefix tokens stay."""

    def __init__(self, prefix: int, *, tells_indices: bool) -> None:
        super().__init__()
        # Eva asks which ones stay, so as to turn their queries and keys by the right angles.
        self.prefix, self.tells_indices = prefix, tells_indices
        self.indices: Int[Tensor, "b kept"] | None = None

    @override
    def forward(
        self, tokens: Float[Tensor, "b n c"]
    ) -> Float[Tensor, "b _ c"] | tuple[Float[Tensor, "b _ c"], Int[Tensor, "b kept"] | None]:
        if self.indices is not None:
            # An index for each channel: a gather of whole tokens.
            places = self.indices[:, :, None].expand(-1, -1, tokens.shape[2])
            patches = tokens[:, self.prefix :].gather(1, places)
            tokens = torch.cat([tokens[:, : self.prefix], patches], dim=1)
        return (tokens, self.indices) if self.tells_indices else tokens
