"""Opens a page of an MLflow server once it responds: `python -m proxytune.tuning.tracking.open_page SERVER PAGE`."""

import sys
import time
import urllib.request
import webbrowser

SECONDS = 120


def wait_for(server: str) -> bool:
    """Wait until the server responds. Returns False after two minutes."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{server}/health", timeout=5).close()
        except OSError:
            time.sleep(0.3)
        else:
            return True
    return False


if __name__ == "__main__" and wait_for(sys.argv[1]):
    webbrowser.open(sys.argv[2])
