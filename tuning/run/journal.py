"""The journal of a study, as its driver writes it: only while it has the newest lease."""

from pathlib import Path

from proxytune.tuning.errors import StorageError
from proxytune.tuning.journal.events import Event
from proxytune.tuning.journal.outbox import Outbox
from proxytune.tuning.store.fence import Fence
from proxytune.tuning.store.lease import Lease


class FencedOutbox(Outbox):
    """An outbox that refuses every append once another driver has taken the study over.

    Opening it also takes over the journal of a driver that lost its lease and is suspended, so that its lock is still
    held: the lock's file is replaced, and the fence keeps that driver out.

    Raises:
        HeldError: another driver has taken the study over; also from `append`.
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
