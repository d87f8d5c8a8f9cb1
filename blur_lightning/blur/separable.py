"""Convolutions along columns and along rows, in the shapes that oneDNN is fastest with.

Both are calls of `conv2d` on the memory as it is, by what torch calls channels_last. Along columns
the pixels of a row are channels, each convolved on its own. Along rows 16 neighbouring pixels are
channels: some such blocks make one blurred block, with the blocks of a band matrix as weights. A
row of that matrix holds the taps, one place further on than the row above.

On one core (AMD Zen 5, AVX-512) this takes half the time of products of the band matrix with
`torch.mm`: MKL's products reach 80 GFLOP/s there, oneDNN's convolutions 200. Products remain for
float64, and where torch comes without oneDNN.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from blur_lightning.blur.border import Border, Workspace, inner_size, pad

# Channels that fill a vector of 512 bits; of 8, 16 and 32 the fastest.
_BLOCK = 16


@dataclass(frozen=True, eq=False)
class Separable:
    """A kernel that is a column times a row.

    Attributes:
        column: Taps (k) of the column, turned by half a turn; None where that is a single 1.
        row: The same of the row.
    """

    column: Tensor | None
    row: Tensor | None

    def __call__(
        self, image: Tensor, border: Border, workspace: Workspace, margin: int = 0
    ) -> Tensor:
        """Blur (c, h, w) but for a margin; the result is float and may lie in the workspace."""
        _, w = inner_size(image, margin)
        rows, columns = (0 if taps is None else len(taps) // 2 for taps in (self.column, self.row))
        dtype = torch.promote_types(image.dtype, torch.float32)
        column, row = (None if t is None else t.to(dtype) for t in (self.column, self.row))
        if dtype != torch.float32 or not torch.backends.mkldnn.is_available():
            values = pad(image, rows, columns, border, dtype, workspace, margin=margin)
            values = values if column is None else _products(values, column)
            return values if row is None else _products(values.mT, row).mT
        blocks = self._blocks
        width = w if blocks is None else (-(-w // _BLOCK) + blocks.shape[3] - 1) * _BLOCK
        more = (0, width - w - 2 * columns)
        values = pad(image, rows, columns, border, dtype, workspace, margin=margin, more=more)
        values = values if column is None else along_columns(values, column)
        return values if blocks is None else along_rows(values, blocks)[..., :w]

    @cached_property
    def _blocks(self) -> Tensor | None:
        return None if self.row is None else cut_in_blocks(_band(self.row.float()), _BLOCK)


def along_columns(
    values: Float[Tensor, "c _ w"], taps: Float[Tensor, " k"], *, step: int = 1
) -> Float[Tensor, "c _ w"]:
    """Correlate each column with the same taps, at every row that is a multiple of the step."""
    width = values.shape[2]
    channels = values[:, None].permute(0, 3, 1, 2)
    weights = taps.expand(width, 1, 1, -1)
    made = F.conv2d(channels, weights, stride=(1, step), groups=width)
    return made.permute(0, 2, 3, 1)[:, 0].contiguous()


def along_rows(
    values: Float[Tensor, "c h _"],
    blocks: Float[Tensor, "outputs inputs 1 reach"],
    *,
    step: int = 1,
) -> Float[Tensor, "c h _"]:
    """Make a block of pixels from every `reach` neighbouring blocks of a row.

    Args:
        values: Contiguous, of a width that is a multiple of the inputs and the step.
        blocks: Which part of an input each output is, for each of the neighbouring blocks.
        step: How many blocks further on the next block is made from.
    """
    c, h, width = values.shape
    outputs, inputs, _, reach = blocks.shape
    count = width // inputs
    # All rows are one long row: what is made across the ends of rows is left out.
    channels = values.view(1, 1, -1, inputs).permute(0, 3, 1, 2)
    made = F.conv2d(channels, blocks, stride=(1, step)).permute(0, 2, 3, 1).contiguous()
    stride = count // step * outputs
    whole = (count - reach) // step + 1
    return made.as_strided((c, h, whole * outputs), (h * stride, stride, 1))


def cut_in_blocks(
    band: Float[Tensor, "outputs _"], inputs: int
) -> Float[Tensor, "outputs {inputs} 1 reach"]:
    """Cut the matrix that makes a block of pixels of a row into the weights of `along_rows`."""
    reach = -(-band.shape[1] // inputs)
    padded = F.pad(band, (0, reach * inputs - band.shape[1]))
    blocks = padded.view(len(band), reach, 1, inputs).permute(0, 3, 2, 1)
    return blocks.contiguous(memory_format=torch.channels_last)


def _band(taps: Tensor) -> Tensor:
    """Put taps into the rows of a matrix, in each one place further on."""
    length = _BLOCK + len(taps) - 1
    # Read again in lines that are shorter by one, a line begins one place later than the one above.
    repeated = F.pad(taps, (0, _BLOCK)).repeat(_BLOCK)
    return repeated[: _BLOCK * length].view(_BLOCK, length)


def _products(values: Tensor, taps: Tensor) -> Tensor:
    """Correlate the columns of (c, n + k - 1, m) with taps by products with their band matrix."""
    band, lines = _band(taps), values.shape[1] - len(taps) + 1
    made = values.new_empty(len(values), lines, values.shape[2])
    for start in range(0, lines, _BLOCK):
        # The last block overlaps the one before: another shape may round differently.
        first, count = max(0, min(start, lines - _BLOCK)), min(_BLOCK, lines)
        used = values[:, first : first + count + len(taps) - 1]
        made[:, first : first + count] = band[:count, : used.shape[1]] @ used
    return made
