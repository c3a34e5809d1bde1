"""docs/DATA.md is what the registry of forms says."""

from pathlib import Path

from proxytune.datasets.prepare import TASKS, make_task
from tests.datasets.forms_page import page

REPOSITORY = Path(__file__).parents[2]


def test_the_page_is_current():
    assert (REPOSITORY / "docs/DATA.md").read_text() == page(), "run `make data-page`"


def test_names_of_forms_are_distinct_and_files_by_name_come_last():
    for name in TASKS:
        formats = make_task(name).formats
        names = [one.name for one in formats]
        assert len(set(names)) == len(names)
        assert not formats or (formats[-1].name, formats[-1].folders) == ("files by name", ())
