"""The curve bank: the journals of finished studies that come with the package (tuning/studies/bank/), compressed with xz.

A file of the bank has the study's spec and every trial's configuration, reports and outcome. Paths, hosts, process
numbers and notes are removed: they describe the machine of the study, not its results. `report --bank` shows a study of
the bank, `search.warm_start.bank` starts a search from one, and the race (tests/benchmarks/race) uses those whose trials
were all trained to the end as tables.
"""

import lzma
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from proxytune.tuning.errors import InputError
from proxytune.tuning.journal.events import (
    BudgetChanged,
    Confirmed,
    Event,
    JournalStarted,
    Reported,
    StudyEnded,
    StudyStarted,
    TrialEnded,
    TrialStarted,
    encode,
)
from proxytune.tuning.journal.reading import JOURNAL, read_all
from proxytune.tuning.spec.study_spec import OF_THE_MACHINE
from proxytune.tuning.spec.yaml_file import nearest
from proxytune.tuning.store.folder import write_file
from proxytune.tuning.studies import banked_studies


@contextmanager
def open_banked(name_or_path: str | Path) -> Iterator[Path]:
    """Yield a temporary outbox folder with the journal of a study of the bank, named, or as a file.

    Raises:
        InputError: the bank has no study of that name, or the file is not a compressed journal.
    """
    known = banked_studies()
    path = name_or_path if isinstance(name_or_path, Path) else known.get(name_or_path)
    if path is None:
        raise InputError(f"the curve bank has no study {name_or_path!r}; {nearest(str(name_or_path), known)}")
    with tempfile.TemporaryDirectory(prefix="bank-") as folder:
        try:
            (Path(folder) / JOURNAL).write_bytes(lzma.decompress(path.read_bytes()))
        except (OSError, lzma.LZMAError) as error:
            raise InputError(f"{path}: not a compressed journal: {error}") from None
        yield Path(folder)


def write_banked(outbox_folder: Path, path: Path) -> None:
    """Write the journal in an outbox as a file of the bank; an existing file is replaced atomically."""
    lines = [
        encode(kept)
        for portion in read_all(outbox_folder)
        for event in portion.events
        if (kept := _without_machine(event)) is not None
    ]
    write_file(path, lzma.compress(b"".join(lines), preset=9 | lzma.PRESET_EXTREME))


def _without_machine(event: Event) -> Event | None:
    """The event without what describes the machine; None if nothing of a result is left."""
    match event:
        case StudyStarted():
            spec = {key: value for key, value in event.spec.items() if key not in OF_THE_MACHINE}
            spec["task"] = {key: value for key, value in spec["task"].items() if key not in ("root", "files")}
            hardware = {key: value for key, value in event.facts.get("hardware", {}).items() if key != "host"}
            return event.model_copy(update={"spec": spec, "facts": event.facts | {"hardware": hardware}})
        case TrialStarted():
            return event.model_copy(update={"config": None})  # follows from spec and params
        case Reported():
            return event.model_copy(update={"node": None, "pid": None})
        case BudgetChanged():
            return event.model_copy(update={"who": ""})
        case StudyEnded():
            return event.model_copy(update={"summary": {}})
        case JournalStarted() | TrialEnded() | Confirmed():
            return event
        case _:
            return None
