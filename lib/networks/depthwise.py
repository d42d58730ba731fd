"""Depthwise convolutions of few pixels, faster on a processor.

On maps of 2 x 2 pixels torch takes 80 times as long for the gradient of a depthwise convolution as for its values: a
fifth of the time of EfficientNet-Lite0 on images of 64 pixels. There a small matrix for each channel, from all pixels
in to all pixels out, gives the same numbers, and autograd does the rest (`benchmarks/README.md`).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

FEW_PIXELS = 4  # of the map that goes in


class FewPixelConv2d(nn.Conv2d):
    """A depthwise convolution; on a processor a product of matrices where the map has few pixels."""

    def forward(self, maps: Float[Tensor, "batch channels height width"]) -> Tensor:
        """The same numbers to rounding."""
        height, width = maps.shape[-2:]
        if maps.device.type != "cpu" or height * width > FEW_PIXELS:
            return super().forward(maps)
        taps, sides = self.taps(height, width)
        kernel = F.pad(self.weight.flatten(1).mT, (0, 0, 0, 1))  # (k k + 1, C): the last is the 0 of distant pixels
        matrix = kernel.index_select(0, taps.flatten()).mT.unflatten(1, taps.shape)  # (C, pixels in, pixels out)
        pixels = maps.flatten(2).transpose(0, 1).contiguous()  # (C, B, pixels in)
        product = torch.bmm(pixels, matrix.contiguous()).transpose(0, 1)  # (B, C, pixels out)
        product = product.unflatten(-1, sides).contiguous(memory_format=torch.channels_last)
        return product if self.bias is None else product + self.bias[:, None, None]

    def taps(self, height: int, width: int) -> tuple[Tensor, tuple[int, int]]:
        """Which entry of the flat kernel joins a pixel in (row) and a pixel out (column); the height and width out."""
        sides, offsets = [], []
        sizes = zip((height, width), self.kernel_size, self.stride, self.padding, strict=True)
        for size, kernel, stride, padding in sizes:
            out = (size + 2 * padding - kernel) // stride + 1
            offsets.append(torch.arange(size)[:, None] - torch.arange(out)[None] * stride + padding)  # (in, out)
            sides.append(out)
        rows, columns = offsets[0][:, None, :, None], offsets[1][None, :, None, :]
        inside = (rows >= 0) & (rows < self.kernel_size[0]) & (columns >= 0) & (columns < self.kernel_size[1])
        taps = torch.where(inside, rows * self.kernel_size[1] + columns, self.kernel_size[0] * self.kernel_size[1])
        return taps.flatten(2).flatten(0, 1), (sides[0], sides[1])


def speed_up_depthwise(network: nn.Module) -> None:
    """Make a network's depthwise convolutions `FewPixelConv2d`, with the same weights under the same names."""
    for module in network.modules():
        plain = type(module) is nn.Conv2d and isinstance(module.padding, tuple) and module.padding_mode == "zeros"
        if plain and module.groups == module.in_channels == module.out_channels and module.dilation == (1, 1):
            module.__class__ = FewPixelConv2d
