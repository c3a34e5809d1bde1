"""BigBird attention (Zaheer et al., NeurIPS-20, arXiv 2007.14062): window, global and random blocks of keys."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from proxytune.models.attention.base import QueryKeyValueAttention, key_bias
from proxytune.models.config import ModelConfig


class BigBird(QueryKeyValueAttention):
    """`bigbird`: blocks of block_size tokens, a grid over the task's length; no dropout inside.

    A block attends to itself and its two neighbours, to the first and the last block (global), and to num_random_blocks
    others, drawn once per head at initialisation. The two global blocks attend to all tokens. Blocks that consist of
    padding are masked, so padding has no effect. With the same random blocks the result equals that of Hugging Face's
    block-sparse attention, which Skyformer's LRA code copies (without dropout, as here).

    Differences from that code: random blocks are drawn from all blocks that are not attended to otherwise (there, at 1,024,
    3,072 and 4,096 tokens, mostly from the first 1,024 tokens), and are fixed (there they are redrawn in every pass unless
    a seed is set); any length and number of blocks is supported. The paper does not specify how random blocks are drawn.
    """

    neighbours: Tensor

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.block = config.block_size
        self.num_blocks = math.ceil(config.max_length / config.block_size)
        neighbours = [
            draw_neighbours(self.num_blocks, config.num_random_blocks) for _ in range(config.num_heads)
        ]
        self.register_buffer("neighbours", torch.stack(neighbours))  # (h, num_blocks, 5 + num_random_blocks)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        n = q.shape[-2]
        present = math.ceil(n / self.block)
        # An additional block of padding replaces neighbours that do not exist in a trimmed batch or a short task.
        padding = (present + 1) * self.block - n
        absent = (self.neighbours < 0) | (self.neighbours >= present)
        index = self.neighbours.masked_fill(absent, present)[:, :present]  # (h, present, w)
        own = index + torch.arange(self.num_heads, device=q.device)[:, None, None] * (present + 1)

        # Sequences and heads as one dimension: ONNX has this operator for four dimensions only.
        k_near, v_near = (
            self.blocks(F.pad(x, (0, 0, 0, padding))).flatten(1, 2)[:, own].flatten(-3, -2).flatten(0, 1)
            for x in (k, v)
        )  # (b h, present, w block, e)
        bias = key_bias(F.pad(mask, (0, padding)), q.dtype).view(-1, present + 1, self.block)
        attended = F.scaled_dot_product_attention(
            self.blocks(F.pad(q, (0, 0, 0, padding - self.block))).flatten(0, 1),
            k_near,
            v_near,
            attn_mask=bias[:, index].flatten(-2)[..., None, :].flatten(0, 1),
        )
        attended = attended.view(*q.shape[:2], -1, q.shape[-1])[..., :n, :]

        last = max(1, self.num_blocks - 1) * self.block
        rows = torch.cat([torch.arange(min(self.block, n)), torch.arange(last, max(last, n))]).to(q.device)
        everywhere = F.scaled_dot_product_attention(q[..., rows, :], k, v, attn_mask=key_bias(mask, q.dtype))
        merged: Tensor = attended.index_copy(-2, rows, everywhere)
        return merged

    def blocks(self, x: Tensor) -> Tensor:
        """(b, h, n, e) -> (b, h, blocks, block, e)."""
        return x.reshape(*x.shape[:-2], -1, self.block, x.shape[-1])


def draw_neighbours(num_blocks: int, num_random: int) -> Tensor:
    """Numbers of the key blocks of each query block: (num_blocks, up to 5 + num_random), -1 for a missing one."""
    own = torch.arange(num_blocks)[:, None]
    window = own + torch.arange(-1, 2)
    ends = torch.tensor([0, num_blocks - 1]).expand(num_blocks, 2)
    fixed = torch.cat([window, ends], dim=1)
    taken = torch.zeros(num_blocks, num_blocks + 2, dtype=torch.bool).scatter_(1, fixed + 1, True)[:, 1:-1]
    # The first `num_random` of the free blocks in random order.
    order = torch.rand(num_blocks, num_blocks).masked_fill_(taken, 2.0).sort(dim=1)
    random = order.indices.masked_fill(order.values > 1, -1)[:, :num_random]
    window = window.masked_fill((window < 0) | (window >= num_blocks), -1)
    ends = ends.masked_fill((ends[:, :, None] == window[:, None, :]).any(-1), -1)
    return torch.cat([window, ends, random], dim=1)
