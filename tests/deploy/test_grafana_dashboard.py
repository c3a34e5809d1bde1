"""Every query of the Grafana dashboard names metrics and labels that the service answers with."""

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
def answered(deploy: Path, tmp_path: Path) -> dict[str, set[str]]:
    """The labels of each sample that /metrics holds, with a study that has begun and a request that was counted."""
    study = deploy / "kuberay" / "rayjob" / "study.yaml"
    spec = read_study(str(study), [f"storage={tmp_path}", "database=null", "tracking.uri=null"])
    begin_study(spec)
    metrics = Metrics(Studies(spec.storage, None))
    metrics.count({"method": "GET"}, 200, 0.1)
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            found[sample.name] = set(sample.labels)
        if not family.samples:  # such as the best value of a study without one
            found[family.name] = set()
    return found


def unknown(expression: str, answered: dict[str, set[str]]) -> list[str]:
    """Names in a PromQL expression that are neither metrics, their labels nor the functions in use."""
    bare = re.sub(r'"[^"]*"|\[\w+\]', "", expression)
    names = set(re.findall(r"[a-z_]{2,}", bare)) - FUNCTIONS
    metrics = names & answered.keys()
    labels = set().union(*(answered[name] for name in metrics)) | {"study", "outcome", "objective"}
    return sorted(names - metrics - labels) if metrics else ["no metric"]


def test_every_query_names_what_the_service_answers(deploy: Path, answered: dict[str, set[str]]) -> None:
    dashboard: dict[str, Any] = json.loads((deploy / "grafana-dashboard.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 8
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    expressions += [entry["query"] for entry in dashboard["templating"]["list"] if entry["type"] == "query"]
    for expression in expressions:
        assert unknown(expression, answered) == [], expression
    shown = {name for name in answered if any(re.search(rf"\b{name}\b", text) for text in expressions)}
    ours = {name for name in answered if not name.endswith(("_created", "_sum", "_count"))}
    assert ours == shown  # and no metric is without its panel


def test_a_misspelt_metric_would_be_seen(answered: dict[str, set[str]]) -> None:
    assert unknown('sum(rate(proxytune_trial{study="x"}[5m]))', answered) == ["no metric"]
    assert unknown("sum by (nothing) (proxytune_trials_budget)", answered) == ["nothing"]
