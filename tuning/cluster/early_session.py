"""Starts Ray in a thread while the driver loads its libraries and opens the study."""

import concurrent.futures.thread  # noqa: F401  (its fork hooks must not be registered while Ray starts processes)
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from proxytune.tuning.cluster.session import TRAINING, RaySession, ray_session


@contextmanager
def early_session() -> Iterator[Callable[[], RaySession]]:
    """Start Ray on this machine for trainings. The yielded function waits for the session and raises its errors.

    The context is entered when Ray is imported, since two threads import no faster than one. The thread exits with this
    context: Linux ends Ray's processes with the thread that started them.
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
    thread.start()
    try:
        imported.wait()
        yield session.result
    finally:
        over.set()
        thread.join()
