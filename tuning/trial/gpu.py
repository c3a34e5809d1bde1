"""GPU memory of a trial's process: its limit and its peak. The driver reads CONTEXT_MIB without importing torch."""

from proxytune.tuning.spec.trial_spec import TrialSpec
from proxytune.tuning.trial.profile import trial_device

CONTEXT_MIB = 600.0  # of CUDA's context, per process
_MIB = 2**20


def begin_on_gpu(spec: TrialSpec, share: float) -> None:
    """Release the memory of the process's previous trial and limit this trial to its share; no effect on a CPU."""
    if trial_device(spec) == "cuda":
        import torch

        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        total_mib = torch.cuda.get_device_properties(0).total_memory / _MIB
        fraction = 1.0 if share >= 1 else max(0.01, share - CONTEXT_MIB / total_mib)
        torch.cuda.set_per_process_memory_fraction(fraction)


def taken_mib(spec: TrialSpec) -> float | None:
    """Peak GPU memory of the process since `begin_on_gpu`, without CUDA's context; None on a CPU."""
    if trial_device(spec) != "cuda":
        return None
    import torch

    return torch.cuda.max_memory_reserved() / _MIB
