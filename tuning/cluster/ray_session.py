"""Ray for one run of a study: started here with a token of its own, or an existing cluster; nothing of it is kept."""

import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from proxytune.tuning.errors import InputError
from proxytune.tuning.trial_spec import Resources

_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # the study's storage holds the truth, not Ray's state file
    "TUNE_WARN_THRESHOLD_S": "10",
}


@dataclass(frozen=True)
class RaySession:
    """A connection to Ray and a scratch folder that goes with it."""

    scratch: Path
    cpus: float
    gpus: float

    def trial_resources(self, resources: Resources) -> dict[str, float]:
        """What Ray reserves for one trial.

        Raises:
            InputError: the cluster has less than one trial needs.
        """
        gpu = resources.gpu if resources.gpu != "auto" else float(self.gpus > 0)
        if resources.cpu > self.cpus:
            raise InputError(f"resources.cpu: {resources.cpu} is more than Ray has here ({self.cpus:g})")
        if gpu > self.gpus:
            raise InputError(
                f"resources.gpu: {gpu:g} is more than Ray has here ({self.gpus:g}); "
                "set resources.gpu to 0 or auto, or use a machine with a GPU"
            )
        return {"cpu": float(resources.cpu), "gpu": float(gpu)}

    def slots(self, resources: Resources) -> int:
        """How many trials run at once."""
        needs = self.trial_resources(resources)
        fits = int(self.cpus // needs["cpu"])
        if needs["gpu"]:
            fits = min(fits, int(self.gpus / needs["gpu"]))
        return min(fits, resources.max_concurrent or fits)


@contextmanager
def ray_session() -> Iterator[RaySession]:
    """Ray on this machine, ended and its scratch folder removed at exit.

    Ray guards its ports with the token of ~/.ray/auth_token (RAY_AUTH_MODE=disabled would turn that off), which is
    made here first, readable by this user alone: Ray itself would leave it readable by all. The workers' folder is
    the scratch folder: Ray puts the driver's on their import path otherwise, where `datasets` would be ours.
    """
    scratch = Path(tempfile.mkdtemp(prefix="proxytune-"))
    (scratch / "workers").mkdir()
    before = dict(os.environ)
    os.environ.update(_ENVIRONMENT)
    try:
        _ensure_token()
        import ray

        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"working_dir": str(scratch / "workers")},
        )
        try:
            total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
            yield RaySession(scratch, total.get("CPU", 0.0), total.get("GPU", 0.0))
        finally:
            ray.shutdown()
    finally:
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(scratch, ignore_errors=True)


def _ensure_token() -> None:
    """Make the user's Ray token if there is none; RAY_AUTH_TOKEN and RAY_AUTH_TOKEN_PATH name another one."""
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return
    path = Path.home() / ".ray" / "auth_token"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32))
