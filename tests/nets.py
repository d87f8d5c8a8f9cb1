"""Small networks for tests, which YAML and command lines can name."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MeanColour(nn.Module):
    """Classifies by the mean colour alone, so it takes images of any size and no time."""

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.linear = nn.Linear(3, num_classes)
        nn.init.normal_(self.linear.weight, generator=generator)

    def forward(self, image: Tensor) -> Tensor:
        return self.linear(image.mean(dim=(2, 3)))


class Diverging(MeanColour):
    """The same, but in training its scores are no numbers."""

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image) * (float("nan") if self.training else 1.0)


class Contrast(MeanColour):
    """Classifies by how much each colour varies, which every blur changes."""

    def forward(self, image: Tensor) -> Tensor:
        return self.linear(image.std(dim=(2, 3)))


class MeanColours(MeanColour):
    """The same on images at several scales."""

    takes_scales = True

    def forward(self, images: list[Tensor]) -> Tensor:
        return torch.stack([super(MeanColours, self).forward(i) for i in images]).mean(dim=0)


class PixelColour(nn.Module):
    """Segments by the colour of each pixel, seen at half the size if it is to be coarse."""

    def __init__(self, classes: int = 21, *, coarse: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.linear = nn.Conv2d(3, classes, 1)
        self.coarse = coarse
        nn.init.normal_(self.linear.weight, generator=generator)

    def forward(self, image: Tensor) -> Tensor | dict[str, Tensor]:
        if not self.coarse:
            return self.linear(image)
        return {"out": self.linear(image[..., ::2, ::2])}  # as torchvision's


class Gain(nn.Module):
    """Restores by multiplying all values by one number, which it learns."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, image: Tensor) -> Tensor:
        return self.gain * image


class EncodedColour(PixelColour):
    """The same behind an encoder, which begins as the identity."""

    def __init__(self, classes: int = 21) -> None:
        super().__init__(classes)
        self.encoder = nn.Conv2d(3, 3, 1, bias=False)
        nn.init.dirac_(self.encoder.weight)

    def forward(self, image: Tensor) -> Tensor | dict[str, Tensor]:
        return super().forward(self.encoder(image))


class Offset(nn.Module):
    """Restores by adding one number to all values, which it learns; if asked at three scales."""

    def __init__(self, offset: float = 0.0, *, pyramid: bool = False) -> None:
        super().__init__()
        self.offset, self.pyramid = nn.Parameter(torch.tensor(offset)), pyramid

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        restored = image + self.offset
        if not self.pyramid:
            return restored
        return F.avg_pool2d(restored, 4), F.avg_pool2d(restored, 2), restored


class Blocks(nn.Module):
    """Two convolutions that give each pixel some values, or each image their mean.

    Args:
        outputs: Number of values.
        pooled: Of each image, not of each pixel.
        normalised: With batch normalisation.
        drop_rate: Of dropout.
    """

    def __init__(
        self,
        outputs: int,
        *,
        pooled: bool = False,
        normalised: bool = False,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, outputs, 1)
        self.norm = nn.BatchNorm2d(8) if normalised else nn.Identity()
        self.drop, self.pooled = nn.Dropout(drop_rate), pooled
        generator = torch.Generator().manual_seed(0)
        for layer in (self.first, self.last):
            nn.init.normal_(layer.weight, std=0.3, generator=generator)
            nn.init.zeros_(layer.bias)

    def forward(self, image: Tensor) -> Tensor:
        values = self.last(self.drop(torch.relu(self.norm(self.first(image)))))
        return values.mean(dim=(2, 3)) if self.pooled else values
