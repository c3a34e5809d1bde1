"""Ray's files on disk are inaccessible to other users, and are removed with the run."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxytune.tuning.cluster.private import LOOK, check_answer, check_private
from proxytune.tuning.cluster.scratch import SCRATCH, scratch_folder
from proxytune.tuning.errors import InputError
from proxytune.tuning.trial import slot

OTHER_USER = 65534
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")

LOCAL = """
import json, sys
from proxytune.tuning.cluster.ray_private import session_folder
from proxytune.tuning.cluster.session import ray_session
with ray_session() as session:
    import ray
    ray.get(ray.remote(lambda: 1).remote())
    print(json.dumps([str(session.scratch), str(session_folder())]), flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A temporary folder that every user may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="open-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def started(script: str, temporary: Path) -> subprocess.Popen[str]:
    """Start a Python process with piped stdin and stdout that creates temporary files in `temporary`."""
    return subprocess.Popen(
        [sys.executable, "-P", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(temporary)},
    )


def test_late_ray_processes_are_killed_with_their_folder() -> None:
    """Ray's processes create their session's folders as they start. A late one would recreate folders already removed."""
    sleep = "-c", "import time; time.sleep(600)"
    with scratch_folder() as folder:
        of_ray = os.environ | {SCRATCH: str(folder)}  # the environment of Ray's processes
        late = subprocess.Popen([sys.executable, *sleep, f"--temp-dir={folder}/ray"], env=of_ray)
        with (folder / "agent.log").open("w") as log:  # an agent's process title hides its arguments
            agent = subprocess.Popen(["ray::Agent", *sleep], executable=sys.executable, stdout=log)
            other = subprocess.Popen(["ray::Agent", *sleep], executable=sys.executable)
        reader = subprocess.Popen(["tail", "-f", folder / "agent.log"])  # started by the user
        shipper = subprocess.Popen([sys.executable, *sleep], env=of_ray)  # started by the driver, not by Ray
    try:
        assert late.wait(60) == -9
        assert agent.wait(60) == -9
        assert [process.poll() for process in (other, reader, shipper)] == [None] * 3
        assert not folder.exists()
    finally:
        for process in (late, agent, other, reader, shipper):
            process.kill()
            process.wait()


@pytest.mark.slow
@pytest.mark.e2e
@as_root
@pytest.mark.parametrize("length", [0, 60])
def test_folder_of_a_local_ray_is_private_and_removed_at_exit(open_folder: Path, length: int) -> None:
    """Also if the path of the temporary folder is too long for Ray's sockets."""
    temporary = open_folder / ("x" * length) if length else open_folder
    temporary.mkdir(exist_ok=True)
    with started(LOCAL, temporary) as process:
        assert process.stdout is not None
        scratch, session = map(Path, json.loads(process.stdout.readline()))
        assert session.is_relative_to(scratch)
        assert scratch.parent == (Path("/tmp") if length else temporary)
        check_private(session)
        listed = subprocess.run(["ls", session], user=OTHER_USER, capture_output=True, text=True, check=False)
        assert "Permission denied" in listed.stderr
        process.communicate("\n")
    assert process.returncode == 0
    assert not scratch.exists()


def test_next_driver_removes_the_folder_of_a_killed_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders of live drivers and other folders are kept."""
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    parent = Path(tempfile.mkdtemp(prefix="s-"))
    monkeypatch.setattr(tempfile, "tempdir", str(parent))
    (parent / "proxytune-other").mkdir()
    script = "import sys; from proxytune.tuning.cluster.scratch import scratch_folder as f; "
    script += "c = f(); print(c.__enter__(), flush=True); sys.stdin.readline()"
    with started(script, parent) as driver:
        assert driver.stdout is not None
        left = Path(driver.stdout.readline().strip())
        with scratch_folder():
            assert left.exists(), "its driver is alive"
        driver.kill()
    assert left.exists()
    with scratch_folder() as own:
        assert not left.exists()
        assert own.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in parent.iterdir()] == ["proxytune-other"]
    shutil.rmtree(parent)


def test_folder_below_a_private_folder_is_private(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    session = tmp_path / "ray" / "session"
    session.mkdir(parents=True)
    session.chmod(0o777)
    check_private(session)


@pytest.mark.parametrize("mode", [0o777, 0o755, 0o710, 0o701])
def test_folder_open_to_other_users_is_rejected_in_one_line(open_folder: Path, mode: int) -> None:
    open_folder.chmod(mode)
    with pytest.raises(InputError, match=rf"can replace the code that Ray runs from {open_folder}") as caught:
        check_private(open_folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_probe_job_reports_whether_its_folder_is_private(open_folder: Path, mode: int) -> None:
    closed = open_folder / "closed"
    (closed / "logs").mkdir(parents=True)
    closed.chmod(mode)
    with (closed / "logs" / "job.log").open("w+") as log:
        subprocess.run([sys.executable, "-I", "-c", LOOK], stdout=log, check=True)
        log.seek(0)
        answer = log.read()
    if mode == 0o700:
        check_answer(answer)
    else:
        with pytest.raises(
            InputError, match=f"can replace the code that Ray runs from {closed}/logs: start Ray"
        ):
            check_answer(answer)
    with pytest.raises(InputError, match="cannot run Python: sh: python: not found"):
        check_answer("sh: python: not found")


@as_root
def test_folder_of_another_user_is_rejected(open_folder: Path) -> None:
    open_folder.chmod(0o700)
    os.chown(open_folder, OTHER_USER, OTHER_USER)
    with pytest.raises(InputError, match="other users"):
        check_private(open_folder)


@as_root
@pytest.mark.parametrize("attack", ["owner", "mode", "link", "file's owner"])
def test_slot_rejects_files_of_another_user(tmp_path: Path, monkeypatch, attack: str) -> None:
    """Otherwise another user could block every trial with a lock on a file that both can open."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with slot.shared_slot():
        pass
    (folder,) = tmp_path.iterdir()
    if attack == "owner":
        os.chown(folder, OTHER_USER, OTHER_USER)
    elif attack == "mode":
        folder.chmod(0o777)
    elif attack == "link":
        folder.rename(tmp_path / "moved")
        folder.symlink_to(tmp_path / "moved")
    else:
        os.chown(folder / "gate", OTHER_USER, OTHER_USER)
    with pytest.raises(PermissionError, match="accessible to other users"), slot.shared_slot():
        pass
