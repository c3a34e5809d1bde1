"""Settings that all tests share."""

import os
from typing import Any

from hypothesis import settings

# Hypothesis fails an example that takes 200 ms by default: an assertion on wall time, which a busy machine breaks.
settings.register_profile("proxytune", deadline=None)
settings.load_profile("proxytune")

# Ray starts its workers at nice 15: a test's trials would get no time beside another test's processes.
os.environ.setdefault("RAY_worker_niceness", "0")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What tests measured or kept (`record_property`), for the reader of the output."""
    passed = terminalreporter.stats.get("passed", [])
    lines = [
        f"{report.nodeid.rpartition('::')[2]}: {name}: {value}"
        for report in passed
        for name, value in report.user_properties
    ]
    if lines:
        terminalreporter.section("measured and kept")
        for line in lines:
            terminalreporter.write_line(line)
