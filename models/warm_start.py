"""Starting a classifier from the weights of another that has more or fewer proxies."""

import torch
from torch import Tensor

from proxytune.models.classifier import Classifier
from proxytune.models.errors import ConfigError


@torch.no_grad()
def warm_start(model: Classifier, weights: dict[str, Tensor]) -> None:
    """Copy `weights`, another classifier's state_dict, into `model`.

    Of more proxies than `model` has, the first are kept; of fewer, the missing ones stay as `model` drew them.

    Raises:
        ConfigError: the weights differ in anything but the number of proxies; `model` is then unchanged.
    """
    own = model.state_dict()
    if strange := sorted(own.keys() ^ weights.keys()):
        where = "the initial weights" if strange[0] in weights else "the model"
        raise ConfigError(
            f"initial weights do not fit: {strange[0]} is only in {where}; "
            "use weights of the same model configuration, up to num_proxies"
        )
    for name, mine in own.items():
        theirs = weights[name]
        same_rows = mine.shape[1:] if name.endswith(".proxies") else mine.shape
        if theirs.ndim != mine.ndim or theirs.shape[mine.ndim - len(same_rows) :] != same_rows:
            raise ConfigError(
                f"initial weights do not fit: {name} is {tuple(theirs.shape)} and not {tuple(mine.shape)}; "
                "use weights of the same model configuration, up to num_proxies"
            )
    for name, mine in own.items():
        kept = min(len(mine), len(weights[name])) if mine.ndim else ...
        mine[:kept].copy_(weights[name][:kept])
