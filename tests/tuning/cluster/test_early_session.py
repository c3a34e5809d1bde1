"""Ray that starts in a thread while the driver opens the study."""

import subprocess
import sys

import pytest

from proxytune.tuning.cluster.early_session import early_session


def test_error_of_the_start_is_raised_where_the_session_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/dev/null")  # no folder for Ray's token
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    with early_session() as session:
        opened = True
        with pytest.raises(NotADirectoryError), session:
            raise AssertionError("Ray started")
    assert opened


FAILED_THEN_USED = """
import psutil
from proxytune.tuning.cluster.early_session import early_session
try:
    with early_session():
        raise OSError("the study cannot be opened")
except OSError as error:
    print(error)
print(len(psutil.Process().children(recursive=True)), "processes")
with early_session() as session:
    with session as used:
        print(len(used.nodes()), "node")
    print(len(psutil.Process().children(recursive=True)), "processes")
"""


@pytest.mark.slow
@pytest.mark.e2e
def test_ray_ends_with_the_context_also_after_an_error() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", FAILED_THEN_USED], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["the study cannot be opened", "0 processes", "1 node", "0 processes"]
