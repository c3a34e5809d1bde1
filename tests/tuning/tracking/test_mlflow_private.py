"""Canary test: the variable that `tracking/mlflow_private.py` sets in MLflow still has an effect."""

import inspect

import mlflow.store.db.utils


def test_mlflow_still_reads_the_number_of_attempts() -> None:
    source = inspect.getsource(mlflow.store.db.utils)
    assert source.count("MAX_RETRY_COUNT") > 1, (
        "this MLflow no longer reads store.db.utils.MAX_RETRY_COUNT: a wrong password would block the shipper for "
        "100 s; change tracking/mlflow_private.py"
    )
