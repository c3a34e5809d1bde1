"""The export folder: complete, written atomically, and loadable with torch alone."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from proxytune.datasets import evaluation_batches
from proxytune.models import load_exported
from proxytune.models.errors import ExportError
from proxytune.models.exported import read_sums
from proxytune.tuning import best, export_study, load_study, pareto_front
from proxytune.tuning.confirm.racing import interval
from proxytune.tuning.errors import InputError, StorageError
from proxytune.tuning.export.sums import write_sums
from proxytune.tuning.export.verify import verify_export
from proxytune.tuning.predict.exported import load_export
from proxytune.tuning.run.begin import begin_study
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.store.confirmation import CONFIRMATION, Candidate, Confirmation, TestResult
from proxytune.tuning.store.study import Study
from proxytune.tuning.trial.data import prepare_task
from tests.tuning.conftest import EXPORT_FILES, NO_PROGRAMS


def read(folder: Path, name: str) -> dict:
    return json.loads((folder / name).read_text())


def check_complete(folder: Path, files: set[str]) -> None:
    assert {path.name for path in folder.iterdir()} == files
    assert sorted(read_sums(folder)) == sorted(files - {"SHA256SUMS"})
    done = subprocess.run(["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=folder, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in folder.iterdir())
    assert verify_export(folder) == []


def test_export_is_complete_and_passes_sha256sum(exported: Path) -> None:
    check_complete(exported, EXPORT_FILES - NO_PROGRAMS.keys())


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_both_programs_run_in_a_new_process_and_match_the_model(study: Study, tmp_path: Path) -> None:
    (folder,) = export_study(study, tmp_path / "export", register=False)
    check_complete(folder, EXPORT_FILES)
    programs = read(folder, "provenance.json")["programs"]
    for name in ("model.pt2", "model.onnx"):
        assert programs[name]["length"] == "1 to 128"
        assert programs[name]["max_logit_difference"] < 1e-4
    assert "model.onnx: token_ids" in (folder / "card.md").read_text()


def test_sweep_json_records_the_complete_search(exported: Path, study: Study) -> None:
    sweep = read(exported, "sweep.json")
    assert sweep["spec"]["search"]["space"].keys() == study.spec.search.space.keys()
    assert sweep["spec"]["search"]["sampler"] == {"name": "tpe", "seed": 0}
    assert sweep["seeds"] == {"sampler": 0, "training": 0, "confirmation": []}
    assert sweep["budget"]["trials"] == sweep["budget"]["spent_trials"] == len(sweep["trials"]) == 5
    assert sweep["selection"]["rule"] == "best"
    assert sweep["data"]["fingerprint"] == prepare_task(study.spec.task).fingerprint
    assert sweep["test_openings"] == []
    assert sweep["confirmation"] is None
    outcomes = {row["outcome"] for row in sweep["trials"]}
    assert outcomes == {"complete", "pruned"}
    for row, trial in zip(sweep["trials"], study.trials(), strict=True):
        assert row["params"] == trial.params
        assert row["reports"] == {str(step): value for step, value in trial.intermediate_values.items()}
        assert row["violations"]["train_memory_mib_per_sequence"] < 0
        assert row["rungs"].keys() == {"3"}
    assert not {"storage", "database", "tracking"} & sweep["spec"].keys()


def test_card_states_accuracy_cost_and_limitations(exported: Path) -> None:
    text = (exported / "card.md").read_text()
    for words in (
        "one seed, unconfirmed",
        "among 5 trials",
        "MiB per sequence",
        "tokens/s in training",
        "no LRA score",
        "Never opened",
    ):
        assert words in text


def test_torch_alone_loads_the_export_and_reproduces_its_accuracy(exported: Path, study: Study) -> None:
    record = best(study)
    state, _ = study.checkpoints(study.trials()[record.trial]).newest()
    assert state is not None
    weights = load_file(exported / "weights.safetensors")
    assert all(torch.equal(weights[name], tensor) for name, tensor in state["trainer"]["model"].items())
    model = load_exported(exported)
    assert not model.training
    right = total = 0
    for batch in evaluation_batches(prepare_task(study.spec.task).validation, batch_size=128):
        with torch.no_grad():
            right += int((model(batch.token_ids, batch.mask).argmax(-1) == batch.labels).sum())
        total += len(batch.labels)
    assert right / total == pytest.approx(read(exported, "metrics.json")["val_accuracy"])
    script = f"import sys; from proxytune.models import load_exported; load_exported({str(exported)!r}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    assert not {"proxytune.tuning", "ray", "optuna", "mlflow", "proxytune.datasets"} & set(
        done.stdout.split()
    )


def test_damaged_folder_and_newer_format_are_rejected(exported: Path, tmp_path: Path) -> None:
    original = (exported / "model.json").read_bytes()
    (exported / "model.json").write_bytes(original.replace(b'"num_heads": 2', b'"num_heads": 1'))
    with pytest.raises(ExportError, match=r"model\.json has sha256"):
        load_exported(exported)
    with pytest.raises(InputError, match=r"model\.json has sha256"):
        load_export(exported)
    (exported / "model.json").write_bytes(original.replace(b'"format": 1', b'"format": 2'))
    write_sums(exported)
    for load, error in ((load_exported, ExportError), (load_export, InputError)):
        with pytest.raises(error, match="format 2, this proxytune reads up to 1; upgrade"):
            load(exported)
    (exported / "SHA256SUMS").unlink()
    with pytest.raises(ExportError, match="older proxytune wrote none: export it again"):
        load_exported(exported)
    with pytest.raises(InputError, match="no such folder"):
        load_export(tmp_path / "nowhere")


def test_sizes_in_model_json_that_contradict_the_weights_are_rejected(exported: Path) -> None:
    model = read(exported, "model.json")
    model["model"]["vocab_size"] = 2**20
    (exported / "model.json").write_text(json.dumps(model))
    write_sums(exported)
    with pytest.raises(ExportError, match=r"encoder\.tokens\.weight is 16 x 16"):
        load_exported(exported)


def test_export_overwrites_nothing_and_a_failed_export_leaves_no_files(
    study: Study, tmp_path: Path, make_small: Callable[..., StudySpec]
) -> None:
    (tmp_path / "existing").mkdir()
    with pytest.raises(InputError, match="existing exists"):
        export_study(study, tmp_path / "existing")
    with pytest.raises(InputError, match="no trial that reached the full budget"):
        export_study(begin_study(make_small("name=empty")), tmp_path / "out")
    copied = Path(shutil.copytree(study.spec.storage, tmp_path / "copy"))
    for state in (copied / "small" / "trials" / "0").glob("step-*/state-*.pt"):
        state.write_bytes(state.read_bytes()[:-1] + b"?")
    with pytest.raises(StorageError, match="does not match the sha256"):
        export_study(load_study("small", copied), tmp_path / "out", trial=0)
    assert {path.name for path in tmp_path.iterdir()} == {"copy", "existing", "studies"}


@pytest.mark.usefixtures("without_programs")
def test_pareto_export_has_a_folder_per_point_and_an_index(study: Study, tmp_path: Path) -> None:
    folders = export_study(study, tmp_path / "front", pareto=True, register=False)
    points = pareto_front(study)
    assert [folder.name for folder in folders] == [f"trial-{point.trial:04d}" for point in points]
    for folder, point in zip(folders, points, strict=True):
        assert load_export(folder).provenance["trial"] == point.trial
        assert load_exported(folder).config.num_proxies == point.params["model.num_proxies"]
    index = (tmp_path / "front" / "index.md").read_text()
    page = (tmp_path / "front" / "index.html").read_text()
    for folder in folders:
        assert f"({folder.name}/card.md)" in index
        assert folder.name in page
    assert "Plotly.newPlot" in page
    assert verify_export(tmp_path / "front") == []
    metrics = folders[0] / "metrics.json"
    metrics.write_text(metrics.read_text().replace('"val_accuracy": 0', '"val_accuracy": 1', 1))
    assert any(
        line.startswith(f"{folders[0].name}/metrics.json: val_accuracy")
        for line in verify_export(tmp_path / "front")
    )
    with pytest.raises(InputError, match="holds a Pareto front; name one of its folders"):
        load_export(tmp_path / "front")


@pytest.mark.usefixtures("without_programs")
def test_memory_limit_selects_a_smaller_trial_and_is_verified(study: Study, tmp_path: Path) -> None:
    memory = {point.trial: point.metrics["train_memory_mib_per_sequence"] for point in pareto_front(study)}
    smallest = min(memory, key=memory.__getitem__)
    limit = memory[smallest] * 1.000001
    (folder,) = export_study(study, tmp_path / "small", max_memory_mib=limit, register=False)
    assert read(folder, "provenance.json")["trial"] == smallest
    assert verify_export(folder) == []
    with pytest.raises(InputError, match=f"trial {smallest} is nearest"):
        export_study(study, tmp_path / "none", max_memory_mib=limit / 2)


@pytest.mark.usefixtures("without_programs")
def test_confirmed_winner_is_exported_with_its_interval(study: Study, tmp_path: Path) -> None:
    complete = pareto_front(study)[:2]
    candidates = [
        Candidate(
            trial=record.trial,
            params=record.params,
            search_value=record.values["val_accuracy"],
            seeds=(1, 2, 3),
            values=values,
            mean=sum(values) / 3,
            interval=interval(values, (0.0, 1.0)),
            eliminated_after=None,
            reason="",
            metrics={},
            efficiency={
                "train_memory_mib_per_sequence": memory,
                "parameters": 1e3,
                "flops_per_sequence": 1e6,
                "train_sequences_per_second": 123.0,
                "inference_sequences_per_second": 456.0,
            },
        )
        for record, values, memory in zip(
            complete, ((0.10, 0.12, 0.14), (0.11, 0.13, 0.12)), (3.0, 2.0), strict=True
        )
    ]
    winner = candidates[1]
    test = TestResult(
        trial=winner.trial, seeds=(1, 2, 3), values=(0.1, 0.1, 0.1), mean=0.1, interval=(0.1, 0.1),
        num_examples=2000, openings=1, opened_at="2026-11-24T00:00:00+00:00", opened_by="tester",
    )  # fmt: skip
    confirmation = Confirmation(
        study="small", objective="val_accuracy", direction="maximize", seeds=(1, 2, 3),
        candidates=tuple(candidates), winner=winner.trial, tied=tuple(candidate.trial for candidate in candidates),
        gap=0.0, retrainings=6, test=test,
    )  # fmt: skip
    copied = load_study("small", Path(shutil.copytree(study.spec.storage, tmp_path / "copy")))
    copied.optuna.set_user_attr(CONFIRMATION, confirmation.to_json())
    copied.optuna.set_user_attr(
        "test_openings",
        [{"at": test.opened_at, "by": "tester", "subject": {"trial": winner.trial}, "result": None}] * 2,
    )
    assert best(copied).trial == winner.trial
    (folder,) = export_study(copied, tmp_path / "confirmed", register=False)
    assert read(folder, "provenance.json")["trial"] == winner.trial
    card = (folder / "card.md").read_text()
    assert winner.interval is not None
    low, high = winner.interval
    assert f"val_accuracy 0.1200 (95 % interval {low:.4f} to {high:.4f})" in card
    for words in ("3 fresh seeds", "are tied", "Test accuracy 0.1000", "123.0 sequences/s", "more than once"):
        assert words in card
    assert verify_export(folder) == []
    (fast,) = export_study(copied, tmp_path / "fast", min_throughput=100, register=False)
    assert read(fast, "metrics.json")["train_sequences_per_second"] == 123.0
    assert verify_export(fast) == []
    sweep = read(folder, "sweep.json")
    sweep["confirmation"]["candidates"][0]["values"][0] = 0.9
    (folder / "sweep.json").write_text(json.dumps(sweep))
    write_sums(folder)
    assert any("confirmation.candidates[0].mean" in line for line in verify_export(folder))
