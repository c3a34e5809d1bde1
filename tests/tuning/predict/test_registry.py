"""Registration of an export as an MLflow model in a real store, and an unavailable MLflow server."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from proxytune.tuning.errors import ProxytuneError
from proxytune.tuning.predict.registry import example_lines, register
from proxytune.tuning.store.study import Study, study_in

SCRIPT = """
import json, sys, warnings
warnings.simplefilter("ignore")
import mlflow, pandas
mlflow.set_tracking_uri(sys.argv[1])
client = mlflow.MlflowClient()
best = client.get_model_version_by_alias("small", "best")
model = mlflow.pyfunc.load_model("models:/small@best")
example = pandas.DataFrame({"line": json.loads(sys.argv[2])})
predictions = model.predict(example)
info = mlflow.models.get_model_info("models:/small@best")
files = [str(path) for path in __import__("pathlib").Path(sys.argv[3]).rglob("*") if path.is_file()]
print(json.dumps({
    "version": str(best.version), "tags": best.tags, "labels": predictions["label"].tolist(),
    "probabilities": predictions["probabilities"].tolist(), "inputs": info.signature.inputs.input_names(),
    "outputs": info.signature.outputs.input_names(), "example": info.saved_input_example_info is not None,
    "description": best.description, "model_description": client.get_registered_model("small").description,
    "metrics": {metric.key: metric.value for metric in client.get_logged_model(best.source.removeprefix("models:/")).metrics or []},
    "files": files, "run_trial": client.get_run(best.run_id).data.tags.get("exported_trial"),
}))
"""


def copy_study(study: Study, storage: Path, uri: str | None = None) -> Study:
    """A copy of the study with an empty tracking store, by default beside it: other tests register in the original's."""
    shutil.copytree(study.spec.storage, storage, ignore=shutil.ignore_patterns("mlflow.db*", "mlartifacts"))
    copied = study_in(study.storage, study.name, storage, None)
    tracking = copied.spec.tracking.model_copy(update={"uri": uri})
    copied.spec = copied.spec.model_copy(update={"tracking": tracking})
    return copied


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(1800)
def test_registered_export_has_alias_best_and_loads_without_pickle(
    finished, study: Study, tmp_path: Path
) -> None:
    import json

    from proxytune.models.exported import SUMS, file_sha256
    from proxytune.tuning.predict.exported import load_export
    from proxytune.tuning.predict.predict import Predictor

    storage = tmp_path / "studies"
    copied = copy_study(study, storage)
    trial_key = f"small/{finished.written.record.trial}"
    client = MlflowClient(tracking_uri=copied.tracking_uri)
    experiment = client.create_experiment("proxytune", str(storage / "mlartifacts"))
    client.create_run(experiment, tags={"trial_key": trial_key, "study_id": "another study"})
    (registered,) = register(copied, [finished.written])
    assert registered == {"name": "small", "version": "1", "uri": "models:/small/1", "best": True}
    lines = example_lines(finished.written.folder)
    done = subprocess.run(
        [sys.executable, "-P", "-c", SCRIPT, copied.tracking_uri, json.dumps(lines), str(storage)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    expected = Predictor(load_export(finished.written.folder)).predict([line.encode() for line in lines])
    assert seen["labels"] == [prediction["label"] for prediction in expected]
    assert seen["probabilities"] == [prediction["probabilities"] for prediction in expected]
    assert (seen["version"], seen["inputs"], seen["outputs"]) == (
        "1",
        ["line"],
        ["label", "probabilities"],
    )
    assert seen["example"]
    assert seen["run_trial"] == trial_key, "not the run of another study with the same name"
    assert f"Trial {finished.written.record.trial} of study small" in seen["description"]
    assert "Winners of study small" in seen["model_description"]
    assert seen["metrics"]["val_accuracy"] == pytest.approx(finished.written.record.metrics["val_accuracy"])
    assert seen["tags"]["sha256_of_sums"] == file_sha256(finished.written.folder / SUMS)
    assert [name for name in seen["files"] if name.startswith(str(storage)) and name.endswith("/MLmodel")]
    assert not [name for name in seen["files"] if name.endswith((".pkl", ".pickle", ".joblib"))]


@pytest.mark.slow
def test_trial_chosen_by_the_user_does_not_get_alias_best(finished, study: Study, tmp_path: Path) -> None:
    copied = copy_study(study, tmp_path / "studies")
    named = replace(finished.written, selection=replace(finished.written.selection, rule="trial"))
    assert [version["best"] for version in register(copied, [finished.written, named])] == [True, False]


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_unavailable_mlflow_is_one_error_line_and_changes_no_file(
    finished, study: Study, tmp_path: Path
) -> None:
    before = {path.name: path.read_bytes() for path in finished.written.folder.iterdir()}
    copied = copy_study(study, tmp_path / "studies", "http://127.0.0.1:9")
    with pytest.raises(ProxytuneError) as raised:
        register(copied, [finished.written])
    assert "MLflow at http://127.0.0.1:9" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert {path.name: path.read_bytes() for path in finished.written.folder.iterdir()} == before
