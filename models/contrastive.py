"""InfoNCE with each proxy as its own class: it attracts a proxy to its own view and repels the others of its layer.

    L = -(1/m) sum_i log( exp(l_ii) / sum_j exp(l_ij) )

where l_ij is one of
    cos(a_i, z_j) / tau          over proxies (`self`, a = z; `two-views`), or per head over a = Q_P, z = K_P (`kernel`)
    q_i . k_j / sqrt(e)          per head, the logits of the middle kernel softmax(Q_P K_P^T / sqrt(e)) (`kernel-logits`)

Over proxies with a = z it is ~0 for orthogonal proxies and ln m for identical ones. At tau = 0.07 only cosines above about
0.45 contribute, so it removes duplicates and does not enforce orthogonality. Over Q_P and K_P it drives the middle kernel
of the Nyström decomposition (arXiv 2102.03902, eq. 13) to the identity. Its pseudo-inverse is then the identity as well,
and K1 K2 is the Nyström approximation. `kernel-logits` is minus the mean logarithm of that kernel's diagonal.

InfoNCE: van den Oord et al. 2018, arXiv 1807.03748. Proxyformer (10.1609/aaai.v38i12.29244) has a contrastive loss with
tau = 0.07; what it contrasts is not published.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(anchors: Tensor, views: Tensor, temperature: float) -> Tensor:
    """Mean loss over all leading axes and proxies, a scalar in fp32 even under autocast.

    Args:
        anchors: (..., m, d), any scale.
        views: (..., m, d); row i is the positive of anchor i, the other rows its negatives.
        temperature: tau > 0.
    """
    with torch.autocast(anchors.device.type, enabled=False):
        cosines = F.normalize(anchors.float(), dim=-1) @ F.normalize(views.float(), dim=-1).transpose(-2, -1)
        return own_class_loss(cosines / temperature)


def kernel_logits_loss(queries: Tensor, keys: Tensor) -> Tensor:
    """The loss on the scaled logits of (..., m, e) queries and keys, a scalar in fp32 even under autocast."""
    with torch.autocast(queries.device.type, enabled=False):
        return own_class_loss(queries.float() @ keys.float().transpose(-2, -1) * queries.shape[-1] ** -0.5)


def own_class_loss(logits: Tensor) -> Tensor:
    """Mean cross-entropy of logits (..., m, m), where the class of row i is i."""
    return -torch.log_softmax(logits, dim=-1).diagonal(dim1=-2, dim2=-1).mean()
