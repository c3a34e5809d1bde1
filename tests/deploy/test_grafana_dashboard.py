"""The queries of the Grafana dashboard use metrics and labels that the service exports."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxytune.tuning.run.begin import begin_study
from proxytune.tuning.service.metrics import Metrics
from proxytune.tuning.service.studies import Studies
from proxytune.tuning.spec.study_files import read_study

FUNCTIONS = {"sum", "by", "on", "rate", "histogram_quantile", "label_values"}


@pytest.fixture
def exported(deploy: Path, tmp_path: Path) -> dict[str, set[str]]:
    """The labels of each sample of /metrics, with a started study and one counted request."""
    study = deploy / "kuberay" / "rayjob" / "study.yaml"
    spec = read_study(str(study), [f"storage={tmp_path}", "database=null", "tracking.uri=null"])
    begin_study(spec)
    metrics = Metrics(Studies(spec.storage, None))
    metrics.count({"method": "GET"}, 200, 0.1)
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            labels[sample.name] = set(sample.labels)
        if not family.samples:  # for example the best value of a study without complete trials
            labels[family.name] = set()
    return labels


def unknown_names(expression: str, exported: dict[str, set[str]]) -> list[str]:
    """Names in a PromQL expression that are neither metrics, their labels nor the functions in use."""
    without_literals = re.sub(r'"[^"]*"|\[\w+\]', "", expression)
    names = set(re.findall(r"[a-z_]{2,}", without_literals)) - FUNCTIONS
    metrics = names & exported.keys()
    labels = set().union(*(exported[name] for name in metrics)) | {"study", "outcome", "objective"}
    return sorted(names - metrics - labels) if metrics else ["no metric"]


def test_queries_use_exported_metrics_and_every_metric_has_a_panel(
    deploy: Path, exported: dict[str, set[str]]
) -> None:
    dashboard: dict[str, Any] = json.loads((deploy / "grafana-dashboard.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 8
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    expressions += [entry["query"] for entry in dashboard["templating"]["list"] if entry["type"] == "query"]
    for expression in expressions:
        assert unknown_names(expression, exported) == [], expression
    shown = {name for name in exported if any(re.search(rf"\b{name}\b", text) for text in expressions)}
    assert shown == {name for name in exported if not name.endswith(("_created", "_sum", "_count"))}


def test_misspelled_metric_or_label_is_detected(exported: dict[str, set[str]]) -> None:
    assert unknown_names('sum(rate(proxytune_trial{study="x"}[5m]))', exported) == ["no metric"]
    assert unknown_names("sum by (nothing) (proxytune_trials_budget)", exported) == ["nothing"]
