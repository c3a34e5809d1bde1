"""The depthwise convolution over values that Nyströmformer (arXiv 2102.03902, section 4) adds to its attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from proxytune.models.config import ModelConfig


class ValueConvolution(nn.Module):
    """One kernel of conv_kernel_size x 1 a head, no bias, padding silenced: (b, h, n, e) -> the same."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size, heads = config.conv_kernel_size, config.num_heads
        self.conv = nn.Conv2d(heads, heads, (size, 1), padding=(size // 2, 0), groups=heads, bias=False)

    def forward(self, v: Tensor, mask: Tensor) -> Tensor:
        """`v` (b, h, n, e); `mask` (b, n) is True at valid tokens."""
        convolved: Tensor = self.conv(v * mask[:, None, :, None])
        return convolved
