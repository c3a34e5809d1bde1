"""Commands that get SIGINT at different moments of their database access exit with 75 and leave the study usable."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from proxytune.tuning.run.begin import begin_study
from proxytune.tuning.store.study import Study
from tests.commandline import CommandResult
from tests.tuning.run.interrupted import NEVER, Moments


def interrupt_at(
    moment: int, call: Callable[..., CommandResult], words: tuple[object, ...], cwd: Path
) -> tuple[CommandResult, int]:
    """Run the command with SIGINT at the given moment. Returns its result and the number of its moments."""
    moments = Moments(signal.SIGINT, moment)
    sys.setprofile(moments)
    try:
        return call(*words, cwd=cwd), moments.count
    finally:
        sys.setprofile(None)


def check(
    call: Callable[..., CommandResult],
    words: tuple[object, ...],
    cwd: Path,
    after: Callable[[], None] = lambda: None,
    stride: int = 7,
) -> None:
    """Interrupt the command at every `stride`-th moment; it exits with 75 each time, and with 0 when not interrupted."""
    moment, count = 1, NEVER
    while moment <= count:
        called, count = interrupt_at(moment, call, words, cwd)
        if count < moment:
            assert called.code == 0, called
            return
        assert called.code == 75, f"moment {moment}: {called}"
        assert "proxytune: " not in called.stderr, called
        after()
        moment, count = moment + stride, NEVER
    raise AssertionError("every moment of the command was interrupted")


@pytest.mark.parametrize(
    "words",
    [
        ("extend", "small", "--trials", 9),
        ("enqueue", "small", "model.num_proxies=2", "model.dropout=0.2"),
        ("stop", "small"),
    ],
    ids=lambda words: words[0],
)
def test_interrupted_steering_command_exits_with_75(
    make_spec, call: Callable[..., CommandResult], tmp_path: Path, words: tuple[object, ...]
) -> None:
    begin_study(make_spec()).storage.engine.dispose()
    check(call, (*words, "--storage", tmp_path / "studies"), tmp_path)


@pytest.mark.usefixtures("without_programs")
def test_interrupted_export_exits_with_75_and_leaves_no_files(
    study: Study, call: Callable[..., CommandResult], tmp_path: Path
) -> None:
    def check_no_files() -> None:
        assert list(tmp_path.iterdir()) == []

    words = "export", "small", "--out", "winner", "--no-register", "--storage", study.spec.storage
    check(call, words, tmp_path, check_no_files, stride=17)
