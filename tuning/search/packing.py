"""`gpu: auto`: how many trials share a GPU, from predicted memory and the measured memory of similar trials.

A trial's need is its predicted peak times a margin, and the context that CUDA keeps for each process. It gets 1/n of a
GPU, where n such trials fit. The margin begins at START_MARGIN and is then what was measured: the worst ratio of taken
to predicted bytes so far and a tenth more. A worker cannot take more than its share (torch's limit for the process), so
a trial that was given too little does not affect others: it is requeued with a whole GPU.
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
    """1/n for the largest n <= `most` trials of this prediction that fit on one GPU together; 1 if no two do."""
    need_mib = predicted_mib * margin + CONTEXT_MIB
    together = max(1, min(most, int(gpu_mib // need_mib)))
    return math.floor(_GRAIN / together) / _GRAIN


def trials_a_gpu(nodes: Sequence[Mapping[str, float]], cpu: float) -> int:
    """How many trials of so many cores each GPU can serve, on the node with the fewest cores for each GPU."""
    counts = [node.get("CPU", 0.0) / cpu / node["GPU"] for node in nodes if node.get("GPU")]
    return max(1, int(min(counts, default=1.0)))


def packed_slots(
    nodes: Sequence[Mapping[str, float]], cpu: float, taken: float, live: int, max_concurrent: int | None
) -> int:
    """How many trials may be out now: one more while a part of a GPU is free, and cores and max_concurrent allow.

    One whose share is larger than what is free waits in Ray for its place, and none is proposed meanwhile.
    """
    with_gpu = [node for node in nodes if node.get("GPU")]
    cores = sum(int(node.get("CPU", 0.0) // cpu) for node in with_gpu)
    free = sum(node["GPU"] for node in with_gpu) - taken
    return min(cores, max_concurrent or cores, live + (free > 0.01))


@dataclass
class Packing:
    """The GPUs of a cluster and the measured memory of trials on them.

    gpu_mib: of the smallest GPU. most: trials that the cores of a node allow on each of its GPUs. worst: the highest
    ratio of taken to predicted memory so far; 0: none is known.
    """

    gpu_mib: float
    most: int
    worst: float = 0.0

    @property
    def margin(self) -> float:
        return 1.1 * max(self.worst, 1.0) if self.worst else START_MARGIN

    def share(self, spec: TrialSpec) -> float:
        """The part of a GPU that a trial is given."""
        return share_of_gpu(predicted_mib(spec), self.gpu_mib, self.margin, self.most)

    def learn(self, spec: TrialSpec, taken_mib: float) -> bool:
        """Note what a trial has taken at its peak, without the context; whether that is news."""
        ratio = taken_mib / predicted_mib(spec)
        news = ratio > self.worst
        self.worst = max(self.worst, ratio)
        return news


def predicted_mib(spec: TrialSpec) -> float:
    """The predicted peak of a trial's training step on CUDA."""
    training = spec.training_config()
    sequences = min(training.micro_batch_size or training.batch_size, training.batch_size)
    return predicted_profile(spec, "cuda")[MEMORY] * sequences
