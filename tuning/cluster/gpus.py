"""The GPUs of the connected cluster."""

from typing import Any


def smallest_gpu_mib() -> float | None:
    """Memory of the cluster's smallest GPU in MiB; None if there is no GPU or torch does not see one on some node."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes: list[dict[str, Any]] = ray.nodes()
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
    import torch  # on the node, not in the driver

    return torch.cuda.get_device_properties(0).total_memory / 2**20 if torch.cuda.is_available() else None
