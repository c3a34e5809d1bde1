"""What a trial's process may take of its GPU, what it took, and how much there is."""

from typing import Any

import torch

from proxytune.tuning.trial.profile import trial_device
from proxytune.tuning.trial_spec import TrialSpec

CONTEXT_MIB = 600.0  # CUDA's own, for each process
_MIB = 2**20


def begin_on_gpu(spec: TrialSpec, share: float) -> None:
    """Forget what the process's last trial left on the GPU, and hold this one to its share; nothing on a CPU."""
    if trial_device(spec) == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        total_mib = torch.cuda.get_device_properties(0).total_memory / _MIB
        fraction = 1.0 if share >= 1 else max(0.01, share - CONTEXT_MIB / total_mib)
        torch.cuda.set_per_process_memory_fraction(fraction)


def taken_mib(spec: TrialSpec) -> float | None:
    """The most that the process has held on the GPU since then, without CUDA's context; None on a CPU."""
    return torch.cuda.max_memory_reserved() / _MIB if trial_device(spec) == "cuda" else None


def smallest_gpu_mib() -> float | None:
    """Memory of the smallest GPU among the nodes of the connected cluster; None if torch sees none there."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    asked = [
        ray.remote(_gpu_mib)
        .options(
            num_cpus=0,
            num_gpus=0.001,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        )
        .remote()
        for node in nodes
        if node["Alive"] and node["Resources"].get("GPU")
    ]
    found = [mib for mib in ray.get(asked, timeout=120) if mib is not None]
    return min(found) if asked and len(found) == len(asked) else None


def _gpu_mib() -> float | None:
    return torch.cuda.get_device_properties(0).total_memory / _MIB if torch.cuda.is_available() else None
