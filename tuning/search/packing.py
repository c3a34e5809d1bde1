"""`gpu: auto`: how many trials share a GPU, from predicted memory and the measured memory of similar trials.

A trial needs its predicted peak times a margin, plus the CUDA context of its process. It gets 1/n of a GPU, where n
such trials fit. The margin is START_MARGIN until a measurement exists, then 1.1 times the highest ratio of measured to
predicted memory so far. A worker cannot exceed its share (torch's memory limit per process), so a trial with too small
a share does not affect others: it is requeued with a whole GPU.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from proxytune.tuning.spec.metrics import MEMORY
from proxytune.tuning.spec.trial_spec import TrialSpec
from proxytune.tuning.trial.gpu import CONTEXT_MIB
from proxytune.tuning.trial.profile import predicted_profile

START_MARGIN = 1.5
_GRAIN = 10_000  # Ray counts GPUs in ten-thousandths


def share_of_gpu(predicted_mib: float, gpu_mib: float, margin: float, most: int) -> float:
    """1/n for the largest n <= `most` of trials with this prediction that fit on one GPU; 1 if only one fits."""
    need_mib = predicted_mib * margin + CONTEXT_MIB
    together = max(1, min(most, int(gpu_mib // need_mib)))
    return math.floor(_GRAIN / together) / _GRAIN


def trials_per_gpu(nodes: Sequence[Mapping[str, float]], cpu: float) -> int:
    """Number of trials of `cpu` cores for each GPU, on the node with the fewest cores per GPU."""
    counts = [node.get("CPU", 0.0) / cpu / node["GPU"] for node in nodes if node.get("GPU")]
    return max(1, int(min(counts, default=1.0)))


def packed_slots(
    nodes: Sequence[Mapping[str, float]], cpu: float, taken: float, live: int, max_concurrent: int | None
) -> int:
    """Number of trials that may run now: one more while part of a GPU is free and cores and max_concurrent allow it.

    A trial whose share exceeds the free part waits in Ray, and no other trial is proposed meanwhile.
    """
    with_gpu = [node for node in nodes if node.get("GPU")]
    cores = sum(int(node.get("CPU", 0.0) // cpu) for node in with_gpu)
    free = sum(node["GPU"] for node in with_gpu) - taken
    return min(cores, max_concurrent or cores, live + (free > 0.01))


@dataclass
class Packing:
    """The GPUs of a cluster and the measured memory of trials on them.

    gpu_mib: memory of the smallest GPU. most: trials that a node's cores allow on each of its GPUs. worst: highest
    ratio of measured to predicted memory so far; 0: no measurement.
    """

    gpu_mib: float
    most: int
    worst: float = 0.0

    @property
    def margin(self) -> float:
        return 1.1 * max(self.worst, 1.0) if self.worst else START_MARGIN

    def share(self, spec: TrialSpec) -> float:
        """The fraction of a GPU assigned to a trial."""
        return share_of_gpu(predicted_mib(spec), self.gpu_mib, self.margin, self.most)

    def record(self, spec: TrialSpec, peak_mib: float) -> bool:
        """Record a trial's measured peak without the CUDA context; return whether `worst` has risen."""
        ratio = peak_mib / predicted_mib(spec)
        risen = ratio > self.worst
        self.worst = max(self.worst, ratio)
        return risen


def predicted_mib(spec: TrialSpec) -> float:
    """Predicted peak memory in MiB of a trial's training step on CUDA."""
    training = spec.training_config()
    sequences = min(training.micro_batch_size or training.batch_size, training.batch_size)
    return predicted_profile(spec, "cuda")[MEMORY] * sequences
