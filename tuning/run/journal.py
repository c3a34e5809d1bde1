"""The journal of a study, writable only by the driver with the newest lease."""

from pathlib import Path

from proxytune.tuning.errors import StorageError
from proxytune.tuning.journal.events import Event
from proxytune.tuning.journal.outbox import Outbox
from proxytune.tuning.store.fence import Fence
from proxytune.tuning.store.lease import Lease


class FencedOutbox(Outbox):
    """An outbox that rejects appends after another driver has taken over the study.

    Opening it also takes over the journal from a suspended driver that has lost its lease but still holds the lock: the
    lock file is replaced, and the fence blocks that driver.

    Raises:
        HeldError: another driver has taken over the study; also raised by `append`.
        StorageError: the folder cannot be written.
    """

    def __init__(self, folder: Path, known_id: str | None, lease: Lease, study_id: str | None = None) -> None:
        self._fence = Fence(folder, lease)
        try:
            with self._fence:
                (folder / "writer.lock").unlink(missing_ok=True)
                super().__init__(folder, known_id, study_id)
        except OSError as error:
            self._fence.close()
            raise StorageError(f"{folder}: {error.strerror}") from None

    def append(self, event: Event) -> bool:
        with self._fence:
            return super().append(event)

    def close(self) -> None:
        super().close()
        self._fence.close()
