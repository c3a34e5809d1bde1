"""Registers an export as an MLflow model in the study's tracking store.

The model uses MLflow's loader module (`served.py` with the unchanged folder), because its other formats use pickle. It
runs in a separate process, like all MLflow calls: an unavailable MLflow costs seconds and a message, never the export.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from proxytune.datasets.prepare import PreparedTask
from proxytune.models.exported import SUMS, file_sha256
from proxytune.tuning.errors import ProxytuneError, one_line
from proxytune.tuning.export.export import ExportResult
from proxytune.tuning.journal.reading import journal_id
from proxytune.tuning.predict.exported import load_export
from proxytune.tuning.predict.inputs import InputFormat
from proxytune.tuning.spec.locations import artifact_root
from proxytune.tuning.store.study import Study
from proxytune.tuning.tracking.artifacts import follow_move
from proxytune.tuning.tracking.shipper import CHILD_ENVIRONMENT
from proxytune.tuning.trial.data import prepare_task

ALIAS = "best"
NUM_EXAMPLES = 2
_SECONDS = 600


def register(study: Study, written: Sequence[ExportResult]) -> list[dict[str, Any]]:
    """Log every folder as an MLflow model and register it under the study's name.

    Each version's description has the rule that chose its trial. Only the study's winner gets the alias `best`.

    Returns:
        {"name", "version", "uri", "best"} of each model.

    Raises:
        ProxytuneError: MLflow rejected the request or is unavailable; the exported folders are not affected.
    """
    objectives = ", ".join(f"{goal} {name}" for name, goal in study.spec.search.objectives.items())
    order = {
        "uri": study.tracking_uri,
        "experiment": study.spec.tracking.experiment,
        "artifacts": artifact_root(study.tracking_uri, study.spec.storage),
        "name": study.name,
        "journal": journal_id(study.folder / "outbox"),
        "description": f"Winners of study {study.name}: {study.spec.task.name}, by {objectives}.",
        "models": [
            {
                "folder": str(result.folder.absolute()),
                "trial": result.record.trial,
                "best": result.selection.rule in ("best", "confirmed"),
                "metrics": result.record.metrics,
                "description": f"Trial {result.record.trial} of study {study.name}; {result.selection.text}.",
                "examples": example_lines(result.folder),
            }
            for result in written
        ],
    }
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", __name__],
            input=json.dumps(order),
            env=os.environ | CHILD_ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ProxytuneError(f"MLflow at {study.tracking_uri} did not respond within {_SECONDS} s") from None
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ProxytuneError(f"MLflow at {study.tracking_uri}: {last}") from None
    if "error" in answer:
        raise ProxytuneError(f"MLflow at {study.tracking_uri}: {answer['error']}")
    return list(answer["models"])


def example_lines(folder: Path) -> list[str]:
    """Validation examples in the model's input format, for MLflow's input example."""
    exported = load_export(folder)
    prepared: PreparedTask = prepare_task(exported.spec.task)
    input_format = InputFormat(
        exported.spec.task, exported.spec.model_config_for(prepared.info), prepared.info.conventions
    )
    return [
        input_format.show(prepared.validation[row][0])
        for row in range(min(NUM_EXAMPLES, len(prepared.validation)))
    ]


# The following functions run in the child process.


def _register_all(order: Mapping[str, Any]) -> list[dict[str, Any]]:
    import mlflow
    from mlflow import MlflowClient

    mlflow.set_tracking_uri(order["uri"])
    client = MlflowClient()
    follow_move(order["uri"])
    experiment = client.get_experiment_by_name(order["experiment"])
    if experiment is None:
        experiment_id = client.create_experiment(order["experiment"], order["artifacts"])
    else:
        experiment_id = experiment.experiment_id
    mlflow.set_experiment(experiment_id=experiment_id)  # else the model goes to Default, below the cwd
    versions = [_register_one(client, experiment_id, order, model) for model in order["models"]]
    client.update_registered_model(order["name"], order["description"])
    return versions


def _register_one(
    client: Any, experiment_id: str, order: Mapping[str, Any], model: Mapping[str, Any]
) -> dict[str, Any]:
    import mlflow.pyfunc
    import pandas
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array

    from proxytune.tuning.predict.served import COLUMN

    name = order["name"]
    trial_key = f"{name}/{model['trial']}"
    run_id = _run_of(client, experiment_id, order["journal"], trial_key)
    signature = ModelSignature(
        inputs=Schema([ColSpec(DataType.string, COLUMN)]),
        outputs=Schema([ColSpec(DataType.long, "label"), ColSpec(Array(DataType.double), "probabilities")]),
    )
    logged = Model.log(
        artifact_path=None,
        name="model",
        flavor=mlflow.pyfunc,
        loader_module="proxytune.tuning.predict.served",
        data_path=model["folder"],
        signature=signature,
        input_example=pandas.DataFrame({COLUMN: model["examples"]}),
        pip_requirements=["proxytune"],
        run_id=run_id,
        registered_model_name=name,
        params={"trial": model["trial"]},
        tags={"trial_key": trial_key},
    )
    version = str(logged.registered_model_version)
    client.update_model_version(name, version, model["description"])
    for key, value in model["metrics"].items():
        if isinstance(value, int | float) and math.isfinite(value):
            client.log_metric(run_id, key, value, model_id=logged.model_id)
    facts = {
        "trial_key": trial_key,
        "sha256_of_sums": file_sha256(Path(model["folder"], SUMS)),
        "val_accuracy": f"{model['metrics']['val_accuracy']:.6g}",
    }
    for key, value in facts.items():
        client.set_model_version_tag(name, version, key, value)
    if model["best"]:
        client.set_registered_model_alias(name, ALIAS, version)
    return {"name": name, "version": version, "uri": f"models:/{name}/{version}", "best": model["best"]}


def _run_of(client: Any, experiment_id: str, journal: str | None, trial_key: str) -> str:
    """The trial's run, found by the study's journal id; a new run if its events have not been shipped."""
    query = f"tags.study_id = '{journal}' AND tags.trial_key = '{trial_key}'"
    found = client.search_runs([experiment_id], query, max_results=1)
    if found:
        return str(found[0].info.run_id)
    run = client.create_run(experiment_id, tags={"exported_trial": trial_key}, run_name=f"export {trial_key}")
    client.set_terminated(run.info.run_id)
    return str(run.info.run_id)


def main() -> None:
    """Register the models given as JSON on standard input; the last line of standard output is the result."""
    import logging

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    try:
        answer: dict[str, Any] = {"models": _register_all(json.load(sys.stdin))}
    except Exception as error:  # from MLflow, the network or a disk; reported to the parent as one line
        answer = {"error": one_line(error)}
    print(f"\n{json.dumps(answer)}", flush=True)


if __name__ == "__main__":
    main()
