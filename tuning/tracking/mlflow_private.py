"""Uses of MLflow's private interfaces. Each function names the public interface that is missing.

`tests/tuning/tracking/test_mlflow_private.py` fails in one sentence when a new version of MLflow changes one of these.
"""

import mlflow.store.db.utils


def open_databases_once() -> None:
    """Make MLflow open its database with a single attempt, since the shipper retries.

    Missing: an option for the number of attempts. By default MLflow retries for 100 s, even after a wrong password.
    """
    mlflow.store.db.utils.MAX_RETRY_COUNT = 1
