"""Private interfaces of Ray that `cluster/ray_private.py` uses, and the hooks that Tune calls: unchanged in this version."""

import importlib.util
import inspect

import ray
from ray.tune import Trainable
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from proxytune.tuning.cluster.bridge import StudyScheduler, StudySearcher
from proxytune.tuning.cluster.ray_private import untested
from proxytune.tuning.cluster.trainable import TrialTrainable


def test_private_attributes_of_ray_exist() -> None:
    from ray._private import auto_init_hook, grpc_utils, ray_constants, services, utils, worker
    from ray._private.node import Node
    from ray._private.state import GlobalState
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc
    from ray.experimental import internal_kv
    from ray.job_config import JobConfig
    from ray.tune.utils.object_cache import _ObjectCache

    for owner, name in (
        (GlobalState, "get_draining_nodes"),
        (ray_constants, "DEBUG_AUTOSCALING_STATUS"),
        (services, "canonicalize_bootstrap_address_or_die"),
        (grpc_utils, "init_grpc_channel"),
        (worker, "_global_node"),
        (Node, "get_session_dir_path"),
        (Node, "start_monitor"),
        (Node, "start_api_server"),
        (Node, "start_log_monitor"),
        (utils, "get_dashboard_dependency_error"),
        (utils, "set_sigterm_handler"),
        (auto_init_hook, "enable_auto_connect"),
        (JobConfig, "_runtime_env_has_working_dir"),
        (gcs_service_pb2, "GetClusterIdRequest"),
        (gcs_service_pb2_grpc, "NodeInfoGcsServiceStub"),
        (internal_kv, "_internal_kv_put"),
        (internal_kv, "_internal_kv_list"),
        (internal_kv, "_internal_kv_get"),
        (internal_kv, "_internal_kv_del"),
        (TuneController, "_update_trial_queue"),
        (TuneController, "_cleanup_cached_actors"),
        (_ObjectCache, "total_max_objects"),
    ):
        assert hasattr(owner, name), f"this Ray has no {owner.__name__}.{name}: change cluster/ray_private.py"


def test_keys_of_the_second_autoscaler_are_unchanged() -> None:
    from ray import _raylet

    assert _raylet.GCS_AUTOSCALER_V2_ENABLED_KEY == "__autoscaler_v2_enabled", "change `autoscales`"
    assert _raylet.GCS_AUTOSCALER_STATE_NAMESPACE == "__autoscaler", "change `autoscales`"


def test_default_trial_environment_of_tune_is_for_lightning_only() -> None:
    spec = importlib.util.find_spec("ray.tune.execution.class_cache")
    assert spec is not None
    assert spec.loader is not None
    unmodified = importlib.util.module_from_spec(spec)  # use_waiting_workers changes the imported module
    spec.loader.exec_module(unmodified)
    assert unmodified.DEFAULT_ENV_VARS == {"PL_DISABLE_FORK": "1"}, (
        "change use_waiting_workers in cluster/ray_private.py"
    )


def test_overridden_tune_hooks_keep_their_signatures() -> None:
    pairs = ((StudyScheduler, FIFOScheduler), (StudySearcher, Searcher), (TrialTrainable, Trainable))
    for ours, theirs in pairs:
        for name, hook in vars(ours).items():
            if name.startswith("_") or not inspect.isfunction(hook):
                continue
            assert hasattr(theirs, name), (
                f"this Ray has no {theirs.__name__}.{name}: change {ours.__module__}"
            )
            known = list(inspect.signature(getattr(theirs, name)).parameters)
            own = list(inspect.signature(hook).parameters)
            assert known[: len(own)] == own, (
                f"this Ray calls {theirs.__name__}.{name} with {known}: change {ours.__module__}"
            )


def test_tune_trial_has_the_attributes_that_the_bridge_reads() -> None:
    trial = Trial("canary", stub=True)
    for name in ("num_failures", "max_failures", "trial_id", "config"):
        assert hasattr(trial, name), f"this Ray's Trial has no {name}: change cluster/bridge.py"


def test_tune_controller_keeps_trials_in_the_known_collections() -> None:
    known = TuneController.__init__.__code__.co_names
    for name in (
        "_live_trials",
        "_stopped_trials",
        "_failed_trials",
        "_trials_to_cache",
        "_trial_to_actor",
    ):
        assert name in known, f"this Ray has no TuneController.{name}: change cluster/ray_private.py"


def test_installed_ray_was_tested_and_other_versions_warn_in_one_line() -> None:
    assert untested(ray.__version__) is None, "change TESTED in cluster/ray_private.py"
    warning = untested("2.61.0")
    assert warning is not None
    assert "Ray 2.61.0 was not tested" in warning
    assert "\n" not in warning
