"""InfoNCE over proxies: pulls each proxy to its own view and pushes it from the other proxies of its layer.

    L = -(1/m) sum_i log( exp(cos(a_i, z_i) / tau) / sum_j exp(cos(a_i, z_j) / tau) )

With a = z (self-positive) it is ~0 for orthogonal proxies and ln m for identical ones; at tau = 0.07 only cosines above
about 0.45 cost anything, so it removes duplicates and does not force orthogonality.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(anchors: Tensor, views: Tensor, temperature: float) -> Tensor:
    """Mean loss over batch and proxies, a scalar in fp32 even under autocast.

    Args:
        anchors: (..., m, d), any scale.
        views: (..., m, d); row i is the positive of anchor i, the other rows its negatives.
        temperature: tau > 0.
    """
    with torch.autocast(anchors.device.type, enabled=False):
        cosines = F.normalize(anchors.float(), dim=-1) @ F.normalize(views.float(), dim=-1).transpose(-2, -1)
        log_probabilities = torch.log_softmax(cosines / temperature, dim=-1)
        return -log_probabilities.diagonal(dim1=-2, dim2=-1).mean()
