"""Imports run without garbage collection, and the collector's previous state is restored."""

import gc
import subprocess
import sys

import pytest

from proxytune.tuning.store.importing import importing


def test_importing_disables_the_collector_and_restores_its_state() -> None:
    assert gc.isenabled()
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled()
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
    script = (
        "import gc, sys, proxytune.tuning.cluster.preload\n"
        "print(gc.isenabled(), *(name in sys.modules for name in ('torch', 'ray.tune', 'proxytune.models.training')))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"] * 4
