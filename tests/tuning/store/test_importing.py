"""Imports without garbage collection leave the collector as they found it."""

import gc
import subprocess
import sys

import pytest

from proxytune.tuning.store.importing import importing


def test_the_collector_is_off_within_and_as_before_afterwards() -> None:
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


def test_a_worker_has_what_trials_need_and_collects_garbage() -> None:
    script = (
        "import gc, sys, proxytune.tuning.cluster.preload\n"
        "print(gc.isenabled(), *(name in sys.modules for name in ('torch', 'ray.tune', 'proxytune.models.training')))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"] * 4
