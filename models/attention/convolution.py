"""The depthwise convolution over values that Nyströmformer (arXiv 2102.03902, section 4) adds to its attention."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from proxytune.models.config import ModelConfig


class ValueConvolution(nn.Module):
    """One kernel of conv_kernel_size x 1 per head, no bias, padding set to zero: (b, h, n, e) -> (b, h, n, e)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size, heads = config.conv_kernel_size, config.num_heads
        self.conv = nn.Conv2d(heads, heads, (size, 1), padding=(size // 2, 0), groups=heads, bias=False)

    def forward(self, v: Tensor, mask: Tensor) -> Tensor:
        """`v` (b, h, n, e); `mask` (b, n) is True at valid tokens."""
        # A depthwise convolution of all h e channels, which are adjacent in memory, is six times as fast on a CPU as one of
        # two channels of (n, e) images, which oneDNN pads to sixteen.
        heads, dim = v.shape[1], v.shape[-1]
        channels = (v * mask[:, None, :, None]).transpose(1, 2).flatten(2).transpose(1, 2)[..., None]
        weight = self.conv.weight.repeat_interleave(dim, dim=0)
        convolved = F.conv2d(
            channels, weight, padding=self.conv.padding, groups=heads * dim
        )  # (b, h e, n, 1)
        return convolved[..., 0].view(v.shape[0], heads, dim, -1).transpose(-2, -1)
