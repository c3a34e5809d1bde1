"""Starts Ray in a thread while the driver loads its libraries and opens the study."""

import concurrent.futures.thread  # noqa: F401  (its fork hooks must not be registered while Ray starts processes)
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager

from proxytune.tuning.cluster.session import TRAINING, RaySession, ray_session


@contextmanager
def early_session() -> Iterator[AbstractContextManager[RaySession]]:
    """Start Ray on this machine for trainings. The yielded context waits for the session, raises its errors and ends Ray.

    This context is entered when Ray is imported, since two threads import no faster than one. It ends Ray if the yielded
    context was not used. The thread lives as long as Ray: Linux ends Ray's processes with the thread that started them.
    """
    session: Future[RaySession] = Future()
    imported, over = threading.Event(), threading.Event()

    def hold() -> None:
        try:
            with ray_session(preload=TRAINING, imported=imported.set) as entered:
                session.set_result(entered)
                over.wait()
        except BaseException as error:
            if session.done():
                raise
            session.set_exception(error)
            imported.set()

    thread = threading.Thread(target=hold, name="ray session")

    def leave() -> None:
        over.set()
        thread.join()

    @contextmanager
    def started() -> Iterator[RaySession]:
        try:
            yield session.result()
        finally:
            leave()

    thread.start()
    try:
        imported.wait()
        yield started()
    finally:
        leave()
