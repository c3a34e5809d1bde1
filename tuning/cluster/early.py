"""The start of a local Ray in a thread: it takes seconds, in which the driver imports its libraries and opens its study."""

import threading
from collections.abc import Sequence
from types import TracebackType

from proxytune.tuning.cluster.session import LOCAL, RaySession, ray_session


class EarlyRay:
    """A `ray_session` of this machine that begins to start at once; a context of it waits until Ray is there.

    Its thread lives as long as Ray does: the kernel ends Ray's processes with the thread that started them. Whoever
    makes one calls `close`, which also ends a Ray that nobody has waited for.

    Raises:
        As ray_session, when it is entered.
    """

    def __init__(self, preload: Sequence[str]) -> None:
        self._session: RaySession | None = None
        self._error: BaseException | None = None
        self._started, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._hold, args=(preload,), name="ray", daemon=True)
        self._thread.start()

    def _hold(self, preload: Sequence[str]) -> None:
        try:
            with ray_session(LOCAL, preload) as self._session:
                self._started.set()
                self._closing.wait()
        except BaseException as error:
            self._error = error
        finally:
            self._started.set()

    def __enter__(self) -> RaySession:
        self._started.wait()
        if self._error is not None:
            raise self._error
        assert self._session is not None
        return self._session

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the Ray, if it has not ended yet."""
        self._closing.set()
        self._thread.join()
