"""Imports run without garbage collection, and the collector's previous state is restored."""

import gc
import importlib
import subprocess
import sys

import pytest

from proxytune.tuning.store.importing import importing

WORKER_MODULES = {"torch", "ray.tune", "proxytune.models.training"}


def test_importing_disables_the_collector_and_restores_its_state() -> None:
    assert gc.isenabled()
    gc.unfreeze()
    try:
        with importing():
            assert not gc.isenabled()
        assert gc.isenabled()
        assert gc.get_freeze_count() > 0, "later collections search the imported modules again"
    finally:
        gc.unfreeze()
    with pytest.raises(ImportError), importing():
        raise ImportError
    assert gc.isenabled()
    gc.disable()
    try:
        with importing():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_worker_preload_imports_trial_modules_and_keeps_the_collector_enabled() -> None:
    importlib.import_module("proxytune.tuning.cluster.preload")
    assert gc.isenabled()
    assert sys.modules.keys() >= WORKER_MODULES


@pytest.mark.slow
def test_worker_preload_in_a_new_process() -> None:
    script = "import gc, sys, proxytune.tuning.cluster.preload\nprint(gc.isenabled(), *sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    is_enabled, *modules = done.stdout.split()
    assert is_enabled == "True"
    assert set(modules) >= WORKER_MODULES
