"""Studies submitted over the network: invalid studies are rejected before anything is written."""

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from proxytune.tuning.errors import InputError
from proxytune.tuning.service.limits import MAX_BODY
from proxytune.tuning.service.problems import Problem
from proxytune.tuning.service.settings import Settings
from proxytune.tuning.service.specs import admit, read_body
from proxytune.tuning.service.submission import EXAMPLE
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.spec.yaml_file import as_yaml, override
from tests.tuning.service.conftest import Servers

YAML = {"Content-Type": "application/yaml"}
JSON = {"Content-Type": "application/json"}
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{after}: &{after} [{','.join([f'*{before}'] * 9)}]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "data").mkdir()
    return Settings(storage=tmp_path / "studies", roots=(tmp_path / "data",))


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, Path]]:
    """A client of a server without a cluster and without studies, and its storage folder."""
    storage = tmp_path_factory.mktemp("studies")
    servers = Servers(storage)
    with httpx.Client(base_url=servers.start(), timeout=300) as http:
        yield http, storage
    servers.stop()


@pytest.mark.parametrize(
    ("body", "kind", "status", "detail"),
    [
        (BOMB, YAML, 400, "aliases (&a) are not allowed"),
        ("name: x\nname: y", YAML, 400, 'line 2: found duplicate key "name"'),
        ('{"name": "x", "name": "y"}', JSON, 400, "the key name appears twice"),
        ("[" * 40 + "]" * 40, JSON, 400, "nested deeper than 32"),
        ("[" * 20_000, JSON, 400, "study: "),
        ("[" * 40 + "]" * 40, YAML, 400, "nested deeper than 32"),
        ('{"name": NaN}', JSON, 400, "NaN is not JSON"),
        ('{"name": "\\ud800"}', JSON, 422, "a lone surrogate"),
        (b"\xff\xfe", YAML, 400, "not UTF-8 text"),
        ('"\\ud800"', YAML, 422, "a lone surrogate"),
        ("{", JSON, 400, "study: "),
        ("[]", JSON, 400, "got list"),
        ("1: x", YAML, 400, "got dict"),
        ("", YAML, 400, "got NoneType"),
        ("? [a, b]\n: c", YAML, 400, "study"),
        ("task: {2020-01-01: x}", YAML, 400, "a key is not text"),
        ("name: 2020-01-01", YAML, 422, "study"),
        ("!!python/object/apply:os.system ['true']", YAML, 400, "study"),
        ("name: x", {"Content-Type": "text/plain"}, 415, "YAML or JSON, got text/plain"),
        ("name: x", {}, 415, "got none"),
        ("{}", JSON, 422, "is missing"),
        (as_yaml(EXAMPLE | {"serach": 1}), YAML, 422, "did you mean search?"),
        (json.dumps(EXAMPLE | {"name": "../x"}), JSON, 422, "must be 1 to 112 letters"),
        (json.dumps(EXAMPLE | {"name": "mlartifacts"}), JSON, 422, "take another name"),
        (json.dumps(EXAMPLE | {"name": "x.confirm"}), JSON, 422, "is a reserved name"),
        (json.dumps(EXAMPLE), JSON, 409, "this server has no cluster"),
        (as_yaml(EXAMPLE), YAML, 409, "this server has no cluster"),
    ],
)
def test_invalid_study_is_rejected_and_writes_nothing(empty, body, kind, status, detail) -> None:
    http, storage = empty
    response = http.post("/v1/studies", content=body, headers=kind)
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
    assert detail in response.json()["detail"]
    assert http.get("/v1/studies").json()["total"] == 0
    assert os.listdir(storage) == []


def test_changed_spec_of_a_stored_study_is_rejected(serve, finished) -> None:
    values = json.loads(finished.model_dump_json(exclude={"database"}))
    with httpx.Client(base_url=serve(), timeout=300) as http:
        same = http.post("/v1/studies", json=values)
        # the same spec is rejected only because this server has no cluster
        assert (same.status_code, same.json()["error"]) == (409, "ProxytuneError")
        values["training"]["steps"] = 60
        other = http.post("/v1/studies", json=values)
    assert (other.status_code, other.json()["error"]) == (409, "OtherSpecError")
    assert "training.steps was 30, now 60" in other.json()["detail"]


def test_resume_with_an_exhausted_budget_is_rejected(serve, finished) -> None:
    with httpx.Client(base_url=serve(address="http://127.0.0.1:9"), timeout=300) as http:
        response = http.post("/v1/studies/small/resume")
    assert response.status_code == 422
    assert "study small has met its budget of 4 trials; extend it" in response.json()["detail"]


def test_unreachable_cluster_is_reported_and_no_study_starts(serve, finished, tmp_path) -> None:
    with httpx.Client(base_url=serve(address="http://127.0.0.1:9"), timeout=300) as http:
        response = http.post("/v1/studies", json=EXAMPLE)
        assert (response.status_code, response.json()["error"]) == (503, "ProxytuneError")
        assert "no response from http://127.0.0.1:9" in response.json()["detail"]
        assert http.post("/v1/studies/small/extend", json={"trials": 5}).status_code == 202
        assert http.post("/v1/studies/small/resume").status_code == 503
        assert http.post("/v1/studies/small/confirm").status_code == 503
        assert http.get("/v1/studies").json()["total"] == 1
        assert http.get("/v1/studies/small").json()["job"] == "unknown"


def spec_with(*assignments: str) -> dict:
    return override(EXAMPLE, assignments)


@pytest.mark.parametrize(
    "assignment",
    [
        "storage=/elsewhere",
        "storage=../elsewhere",
        "database=sqlite:////elsewhere/x.db",
        "database=postgresql+psycopg://host/name",
        "tracking.uri=http://elsewhere",
        "tracking.uri=sqlite:////elsewhere/mlflow.db",
        "tracking.uri=file:///etc",
        "tracking.uri=[x]",
        "checkpoints=s3://elsewhere/x",
        "checkpoints=file:///etc",
        "search.warm_start={study: x, storage: /elsewhere}",
        "search.warm_start={study: x, database: 'sqlite:////elsewhere/x.db'}",
    ],
)
def test_study_cannot_choose_locations_on_the_server(settings, assignment) -> None:
    with pytest.raises(InputError, match="remove the key"):
        admit(spec_with(assignment), settings)


def test_list_of_keys_with_locations_is_complete() -> None:
    """A new key of the study file with a path or an address must be restricted by `admit` and then added to this list."""
    text = json.dumps(StudySpec.model_json_schema())
    assert text.count('"format": "path"') == 4  # task.root, task.files, storage, search.warm_start.storage
    found = set()

    def walk(model, path: str) -> None:
        for name, field in model.model_fields.items():
            if name in ("root", "files", "storage", "database", "uri", "checkpoints", "study"):
                found.add(f"{path}{name}")
            for hint in (field.annotation, *get_args(field.annotation)):
                if isinstance(hint, type) and issubclass(hint, BaseModel):
                    walk(hint, f"{path}{name}.")

    walk(StudySpec, "")
    assert found == {
        *("task.root", "task.files", "storage", "database", "checkpoints", "tracking.uri"),
        *("search.warm_start.study", "search.warm_start.storage", "search.warm_start.database"),
    }


def test_name_of_an_earlier_study_cannot_escape_the_storage(settings) -> None:
    with pytest.raises(InputError, match="is not a valid study name"):
        admit(spec_with("search.warm_start={study: ../../elsewhere}"), settings)
    assert (
        admit(spec_with("search.warm_start={study: earlier}"), settings).search.warm_start.study == "earlier"
    )


def test_study_with_the_locations_of_the_server_is_accepted(settings) -> None:
    first = admit(spec_with(), settings)
    again = admit(json.loads(first.model_dump_json()), settings)
    assert again == first
    assert (again.storage, again.database, again.tracking.uri) == (settings.storage, None, None)


@pytest.mark.parametrize(
    "root", ["/etc", "/etc/passwd", "{data}/../other", "{data}/link", "{data}/link/below", "~root", "/"]
)
def test_data_outside_the_roots_is_rejected(settings, tmp_path, root) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "other")
    with pytest.raises(InputError, match="is not under a data root of this server"):
        admit(spec_with(f"task.root={root.format(data=tmp_path / 'data')}"), settings)
    with pytest.raises(InputError, match=r"task\.files\.test: .* is not under a data root of this server"):
        admit(spec_with(f"task.files.test={root.format(data=tmp_path / 'data')}"), settings)


def test_data_under_a_root_is_accepted(settings, tmp_path) -> None:
    for root in (
        tmp_path / "data",
        tmp_path / "data" / "lra",
        tmp_path / "data" / "x" / ".." / "aclImdb_v1.tar.gz",
    ):
        assert admit(spec_with(f"task.root={root}"), settings).task.root == root
    with pytest.raises(InputError, match="no root is configured"):
        admit(spec_with("task.root=/data"), Settings(storage=settings.storage))


@pytest.mark.parametrize("key", ["task.root", "task.files.train", "task.max_length"])
def test_the_data_cannot_be_searched(settings, key) -> None:
    """Trials of other data are not comparable."""
    values = spec_with()
    values["search"]["space"][key] = {"choice": ["/etc/passwd"]}
    with pytest.raises(InputError, match=rf"search\.space\.{key}: unknown key"):
        admit(values, settings)


@pytest.mark.parametrize("number", ["1e400", str(10**400), "-1", "0", "1e308"])
@pytest.mark.parametrize(
    "key",
    [
        "training.steps",
        "search.trials",
        "search.space.model.dropout",
        "search.space.model.num_proxies",
        "search.stopping.min_steps",
    ],
)
def test_out_of_range_number_is_rejected(settings, key, number) -> None:
    value = f"{{low: 0, high: {number}}}" if ".space." in key else number
    accepted = (key, number) in (("search.trials", str(10**400)), ("search.space.model.dropout", "0"))
    for stopping in ("asha", "median", "hyperband"):
        values = spec_with(f"{key}={value}", f"search.stopping.name={stopping}")
        if accepted:
            assert admit(values, settings).search.stopping.name == stopping
        else:
            with pytest.raises(InputError, match=f"{key.rpartition('.')[2]}|a number is out of range"):
                admit(values, settings)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=12,
)
paths = st.sampled_from(
    [
        "name",
        "task",
        "task.name",
        "task.root",
        "model",
        "model.num_heads",
        "training",
        "training.steps",
        "search",
        "search.space",
        "search.objectives",
        "search.constraints",
        "search.sampler",
        "search.stopping",
        "search.trials",
        "search.enqueue",
        "resources",
        "resources.gpu",
        "tracking",
        "storage",
        "database",
    ]
)


SAME = object()
"""Stands for the value in the example."""


@given(st.dictionaries(paths, st.just(SAME) | plain, min_size=1, max_size=3))
def test_any_value_of_any_key_is_accepted_or_rejected(values) -> None:
    study = json.loads(json.dumps(EXAMPLE))
    changes = {path: value for path, value in values.items() if value is not SAME}
    for path, value in changes.items():
        *sections, key = path.split(".")
        target = study
        for section in sections:
            target = target[section] if isinstance(target.get(section), dict) else {}
        target[key] = value
    with contextlib.suppress(InputError) if changes else contextlib.nullcontext():
        assert admit(study, Settings(storage=Path("/nowhere"))).name == study["name"]


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode(errors="surrogatepass")))
def test_any_body_is_parsed_or_rejected(body) -> None:
    for kind in (JSON, YAML):
        with contextlib.suppress(Problem):
            assert isinstance(read_body(body, kind["Content-Type"]), dict)


@given(plain.filter(lambda value: isinstance(value, dict)))
def test_json_body_round_trips(value) -> None:
    def is_finite(part) -> bool:
        if isinstance(part, float):
            return math.isfinite(part)
        if isinstance(part, dict):
            return all(map(is_finite, part.values()))
        return not isinstance(part, list) or all(map(is_finite, part))

    if is_finite(value):  # JSON has no NaN and no infinities
        assert read_body(json.dumps(value).encode(), "application/json; charset=utf-8") == value


@pytest.mark.slow
@pytest.mark.parametrize("part", ["- 1\n", "k{}:\n", "k{}: [1, 2, 3]\n", "k{}: 'a b'\n", "[1,\n"])
def test_cpu_time_of_parsing_grows_linearly_with_the_body(part: str) -> None:
    """A quadratic time would multiply by 16."""

    def seconds(size: int) -> float:
        body = "".join(part.format(index) for index in range(size // 4))[:size].rpartition("\n")[0].encode()
        began = time.process_time()
        with contextlib.suppress(Problem):
            read_body(body, "application/yaml")
        return time.process_time() - began

    assert min(seconds(MAX_BODY) for _ in range(2)) < 8 * min(seconds(MAX_BODY // 4) for _ in range(2)) + 0.01
