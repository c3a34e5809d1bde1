"""A classifier returns the same logits for trimmed batches as for batches padded to the task's maximum length."""

import os
from pathlib import Path

import pytest
import torch

from proxytune.datasets import prepare
from proxytune.datasets.batches import collate
from proxytune.models.classifier import Classifier
from proxytune.models.config import ModelConfig

DATA = Path(os.environ.get("LRA_ROOT", Path(__file__).parents[3] / "shared" / "data"))


def max_logit_difference(prepared, attention: str, rows: list[int]) -> float:
    torch.manual_seed(0)
    info = prepared.info
    model = Classifier(
        ModelConfig(
            vocab_size=info.vocab_size,
            max_length=info.max_length,
            num_classes=info.num_classes,
            num_documents=info.num_documents,
            attention=attention,
        )
    ).eval()
    trimmed, full = (collate(prepared.train, rows, full_padding=padding) for padding in (False, True))
    assert trimmed.token_ids.shape[-1] < full.token_ids.shape[-1] == info.max_length
    with torch.no_grad():
        return (model(trimmed.token_ids, trimmed.mask) - model(full.token_ids, full.mask)).abs().max().item()


@pytest.mark.parametrize("attention", ["proxyformer", "softmax"])
def test_trimmed_listops_batch_has_the_logits_of_full_padding(attention, tmp_path):
    prepared = prepare("listops-mini", cache=tmp_path, train_examples=100, mapper=map)
    assert max_logit_difference(prepared, attention, list(range(32))) < 1e-5


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.parametrize("attention", ["proxyformer", "softmax"])
def test_trimmed_review_batch_has_the_logits_of_full_padding(attention, tmp_path_factory):
    if not (DATA / "aclImdb_v1.tar.gz").exists():
        pytest.skip(f"no IMDB reviews in {DATA}; set LRA_ROOT")
    prepared = prepare(
        "text", root=DATA, cache=tmp_path_factory.getbasetemp() / "reviews", train_examples=200
    )
    short = sorted(range(200), key=lambda row: prepared.train.lengths[row])[:8]
    assert max_logit_difference(prepared, attention, short) < 1e-5
