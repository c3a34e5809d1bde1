"""Texts of users and of libraries are printed as they are."""

from collections.abc import Callable

import pytest
from click.testing import CliRunner

from proxytune.tuning.cli import cli
from proxytune.tuning.run.begin import begin_study
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.store import steering
from proxytune.tuning.store.attributes import END

REASON = "[enforce fail at alloc_cpu.cpp:118] cannot allocate [/memory] :fire:"


def test_reason_with_brackets_is_shown_whole(make_spec: Callable[..., StudySpec]) -> None:
    spec = make_spec("search.enqueue=[]")
    study = begin_study(spec).optuna
    study.ask().set_user_attr(END, {"outcome": "failed", "reason": REASON, "step": 0, "metrics": {}})
    done = CliRunner().invoke(cli, ["trials", spec.name, "--storage", str(spec.storage)])
    assert REASON in " ".join(done.output.split())


def test_user_without_a_name_is_named_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that is run with a user id of its own."""

    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(steering.getpass, "getuser", unknown)
    monkeypatch.setattr(steering.os, "getuid", lambda: 12345)
    assert steering.terminal_user().startswith("12345@")
