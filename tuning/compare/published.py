"""Accuracies published in other papers for the same small model, shown separately from measured accuracies.

All use two layers of dimension 64, feed-forward 128, two heads; steps, learning rates, splits and seeds differ between
sources.
"""

from collections.abc import Mapping
from dataclasses import dataclass

TASKS = ("listops", "text", "retrieval", "image", "pathfinder")


@dataclass(frozen=True)
class Published:
    """A published table: test accuracy in percent by method, in the order of TASKS."""

    source: str
    protocol: str
    rows: Mapping[str, tuple[float, ...]]


PUBLISHED = (
    Published(
        "Xiong et al. 2021, Nyströmformer, arXiv 2102.03902, Table 3",
        "5,000 / 20,000 / 30,000 / 35,000 / 62,400 steps, the protocol of our paper-* studies; best validation "
        "checkpoint, test as validation on Text",
        {
            "softmax": (37.10, 65.02, 79.35, 38.20, 74.16),
            "Reformer (2 hashes)": (19.05, 64.88, 78.64, 43.29, 69.36),
            "Linformer (256)": (37.25, 55.91, 79.37, 37.84, 67.60),
            "Performer (256)": (18.80, 63.81, 78.62, 37.07, 69.87),
            "Nyströmformer": (37.15, 65.52, 79.56, 41.58, 70.94),
        },
    ),
    Published(
        "Chen et al. 2021, Skyformer, NeurIPS 2021, Table 1",
        "50,000 steps on each task, 128 features, mean of 3 seeds",
        {
            "softmax": (38.37, 61.95, 80.69, 40.57, 65.26),
            "Nyströmformer": (38.51, 64.83, 80.52, 41.30, 69.48),
            "Linformer": (37.45, 58.93, 78.19, 37.96, 60.93),
            "Informer": (32.53, 62.64, 77.57, 38.10, 57.83),
            "Performer": (38.02, 64.19, 80.04, 41.43, 66.30),
            "Reformer": (37.68, 62.93, 78.99, 48.87, 66.49),
            "BigBird": (39.25, 63.86, 80.28, 43.16, 68.72),
            "Skyformer": (38.69, 64.70, 82.06, 40.77, 70.73),
        },
    ),
    Published(
        "Spectraformer, README of github.com/cruiseresearchgroup/spectraformer",
        "Skyformer's code rerun, mean over seeds",
        {
            "softmax": (38.49, 59.72, 80.86, 37.48, 67.56),
            "Nyströmformer": (38.69, 61.57, 80.57, 39.49, 69.96),
            "BigBird": (38.82, 61.04, 80.53, 37.59, 68.28),
            "Skyformer": (38.96, 60.67, 81.90, 32.93, 69.81),
            "Reformer": (35.50, 61.28, 78.31, 43.62, 66.28),
            "Linformer": (36.94, 56.99, 77.86, 39.09, 59.24),
            "Performer (OPRF-OR)": (38.05, 60.18, 81.19, 33.70, 67.24),
        },
    ),
    Published(
        "PolaFormer (ICLR 2025), README of its repository",
        "the same small model; its other rows are copied from the JAX code's table and omitted here",
        {
            "softmax": (38.71, 61.55, 80.93, 39.14, 70.39),
            "Nyströmformer": (37.95, 62.36, 80.89, 38.94, 69.34),
            "Linformer": (36.44, 57.29, 77.85, 38.43, 65.39),
            "cosFormer": (37.20, 63.54, 80.28, 35.84, 70.00),
            "Hedgehog": (37.15, 64.60, 82.24, 40.15, 74.16),
            "PolaFormer": (37.35, 73.06, 80.50, 42.15, 70.53),
        },
    ),
    Published(
        "Chen et al. 2023, Primal-Attention, arXiv 2305.19798, Table 3",
        "Nyströmformer's protocol",
        {
            "Longformer": (37.2, 64.6, 81.0, 39.1, 73.0),
            "YOSO-E": (37.3, 64.7, 81.2, 39.8, 72.9),
            "Primal.+Trans": (37.3, 65.4, 81.0, 43.9, 74.3),
        },
    ),
)
PROXYFORMER = (
    "Lee et al. 2024, Proxyformer (AAAI, 10.1609/aaai.v38i12.29244): its table of accuracies was not available; "
    "the authors' laboratory states 0.08 times the memory and 3.8 times the throughput of self-attention at 4,096 tokens "
    "(sw.skku.edu, news item 166326)."
)
