"""Ray keeps memory of every trial for as long as one `tune.run` lasts, so a driver renews it; nobody notices."""

from collections import Counter
from pathlib import Path

import pytest

from proxytune.tuning.cluster import bridge
from proxytune.tuning.journal.events import Reported, TrialEnded
from proxytune.tuning.journal.reading import read_events
from proxytune.tuning.run.driver import run_study
from tests.benchmarks.turnaround import REPORTS, NoWorkTrainable, no_work_study


@pytest.mark.timeout(600)
def test_a_study_of_several_runs_of_ray_has_every_report_and_end_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge, "TRIALS_PER_RUN", 3)
    study = run_study(no_work_study(tmp_path / "studies", 8), trainable=NoWorkTrainable)
    assert [trial.state.name for trial in study.trials()] == ["COMPLETE"] * 8
    events = read_events(study.folder / "outbox").events
    reports = Counter((event.trial, event.step) for event in events if isinstance(event, Reported))
    assert len(reports) == 8 * REPORTS
    assert set(reports.values()) == {1}
    ends = Counter(
        event.trial for event in events if isinstance(event, TrialEnded) and event.outcome.is_final
    )
    assert ends == dict.fromkeys(range(8), 1)
