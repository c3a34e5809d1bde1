"""docs/DATA.md: the table of forms, made from the registry that reads them.

python tests/datasets/forms_page.py > docs/DATA.md
"""

from collections.abc import Iterator

from proxytune.datasets.prepare import TASKS, make_task
from proxytune.datasets.sources import Format

HEAD = """\
# The data

`proxytune data prepare TASK --root FOLDER` finds a task's files in a folder, or in an archive, in any of the forms
below, checks every row, and converts them once for all studies of the machine. `proxytune data list --root FOLDER`
shows what is there. This page is made by `make data-page` from the registry that reads the files.

- A pattern stands below the root, or below one of the folders that the form's users have. `*` stands for anything,
  `{a,b}` for the first of several that is there.
- A folder is looked at before archives. Archives are zip, tar, tar.gz (tgz, gz), tar.bz2, tar.xz and tar.zst, whatever the
  case of their name; `._*`, `__MACOSX`, `.DS_Store` and links in an archive are ignored. Other names are those of
  the pattern in any case.
- Any file by name: `--option train=FILE --option validation=FILE --option test=FILE`, in a study `task.files`.
- Data in which something is missing are refused: a file of a set, a record that was cut, a split with one class. With
  `--allow-partial` (`task.partial: true`) they are used, and what is missing is recorded. Fewer rows than the original
  has are said and recorded, not refused.
- CSV and TSV files may have a byte order mark, blank last lines, and a header in any case, or none where the columns
  can be told apart.
- A fingerprint is of the content: the same rows in the same order have the same one in any form. The form is recorded
  beside it, in the manifest, with every trial and in the export.
- Every row of ListOps is evaluated: its brackets must fit, and its value must be its label. Ids of an unknown order
  (pickles, MEGA, S4, npz) cannot be.

"Tested on": *real* files of the original source (for Retrieval real papers in pairs built again, for ListOps rows of
the official process and two of the release, for Image 5,000 of the original images); *made* files are written by the
tests in the same form.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for name in TASKS:
        formats = make_task(name).formats
        if (formats and not name.startswith("path")) or name == "pathfinder":
            parts += ["\n".join([f"## {name}", "", *_table(formats)]) + "\n"]
    parts.append(
        "pathfinder64 and pathx have the forms of pathfinder, with 64 and 128 in place of 32; `difficulty=easy` and "
        "`medium` have the folders curv_baseline and curv_contour_length_9.\n"
    )
    return "\n".join(parts)


def _table(formats: tuple[Format, ...]) -> Iterator[str]:
    yield "| form | files | rows of the original | tested on | |"
    yield "|---|---|---|---|---|"
    for one in formats:
        patterns = list(dict.fromkeys(one.parts.values()))
        shown = patterns if len(patterns) <= 4 else [*patterns[:2], "...", patterns[-1]]
        files = ", ".join(f"`{pattern}`" if pattern != "..." else pattern for pattern in shown)
        rows = ", ".join(f"{number:,} {split}" for split, number in one.rows.items())
        yield f"| {one.name} | {files} | {rows} | {one.tested} | {one.note} |"


if __name__ == "__main__":
    print(page(), end="")
