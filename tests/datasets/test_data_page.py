"""docs/DATA.md agrees with the registry of data formats."""

from pathlib import Path

from proxytune.datasets.prepare import TASKS, make_task
from tests.datasets.data_page import page

REPOSITORY = Path(__file__).parents[2]


def test_data_page_is_up_to_date():
    assert (REPOSITORY / "docs/DATA.md").read_text() == page(), "run `make data-page`"


def test_format_names_are_unique_and_files_by_name_is_last():
    for name in TASKS:
        formats = make_task(name).formats
        names = [each.name for each in formats]
        assert len(set(names)) == len(names)
        assert not formats or (formats[-1].name, formats[-1].folders) == ("files by name", ())
