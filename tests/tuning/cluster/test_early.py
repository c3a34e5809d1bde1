"""A local Ray that starts in a thread: it is there when it is waited for, and gone when it is closed."""

import json
import subprocess
import sys

import pytest

EARLY = """
import json, os, psutil, sys
from proxytune.tuning.cluster.early import EarlyRay

def started():
    return [" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)]

early = EarlyRay(["proxytune.models.training"])
with early as session:
    import ray
    facts = {
        "cpus": session.nodes()[0]["CPU"],
        "started": started(),
        "preloaded": ray.get(ray.remote(lambda: "proxytune.models.training" in sys.modules).remote()),
    }
facts |= {"left": started(), "folder": os.path.exists(session.scratch)}
never_entered = EarlyRay([])
never_entered.close()
print(json.dumps(facts | {"left after none": started(), "connected": ray.is_initialized()}))
"""


@pytest.mark.slow
@pytest.mark.e2e
def test_ray_starts_lean_and_leaves_nothing_whether_it_was_waited_for_or_not() -> None:
    done = subprocess.run([sys.executable, "-P", "-c", EARLY], capture_output=True, text=True, check=True)
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["cpus"] >= 1
    assert any("raylet" in line for line in facts["started"])
    for idle in ("dashboard.py", "monitor.py"):
        assert not any(idle in line for line in facts["started"]), f"this Ray starts {idle} all the same"
    assert facts["preloaded"], "this Ray's workers import no modules as they start"
    assert facts["left"] == facts["left after none"] == []
    assert not facts["folder"]
    assert not facts["connected"]
