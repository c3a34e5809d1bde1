"""docs/DATA.md is what the registry of forms says."""

import importlib.util
from pathlib import Path

from proxytune.datasets.prepare import TASKS, make_task

REPOSITORY = Path(__file__).parents[2]


def test_the_page_is_current():
    spec = importlib.util.spec_from_file_location("forms_page", Path(__file__).with_name("forms_page.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (REPOSITORY / "docs/DATA.md").read_text() == module.page(), "run `make data-page`"


def test_names_of_forms_are_distinct_and_files_by_name_come_last():
    for name in TASKS:
        formats = make_task(name).formats
        names = [one.name for one in formats]
        assert len(set(names)) == len(names)
        assert not formats or (formats[-1].name, formats[-1].folders) == ("files by name", ())
