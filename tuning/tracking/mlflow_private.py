"""What is private in MLflow: each function names the public interface that is missing.

`tests/tuning/tracking/test_mlflow_private.py` fails in one sentence when a new version of MLflow changes one of these.
"""

import mlflow.store.db.utils


def open_databases_once() -> None:
    """Let MLflow try once to open its database; the shipper retries by itself.

    Missing: an option for the number of attempts. By default MLflow repeats a wrong password for 100 s.
    """
    mlflow.store.db.utils.MAX_RETRY_COUNT = 1
