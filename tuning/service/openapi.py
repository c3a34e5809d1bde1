"""The OpenAPI document: FastAPI's document of the routes, with the study file's schema and the problems."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from proxytune.tuning.service.gate import OPEN
from proxytune.tuning.service.problems import HINTS, MEDIA_TYPE, ProblemBody
from proxytune.tuning.spec.study_spec import StudySpec

REFERENCE = "#/components/schemas/{model}"


def document(app: FastAPI) -> dict[str, Any]:
    """The document of the application's routes."""
    result = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        tags=app.openapi_tags,
    )
    schemas = result["components"]["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["ProblemBody"] = ProblemBody.model_json_schema(ref_template=REFERENCE)
    study = StudySpec.model_json_schema(ref_template=REFERENCE)
    schemas.update(study.pop("$defs"))
    for key in ("storage", "database", "checkpoints"):  # set by the server
        del study["properties"][key]
    for key in ("storage", "database"):
        del schemas["WarmStartSource"]["properties"][key]
    del schemas["Tracking"]["properties"]["uri"]
    schemas["StudySpec"] = study
    for path, operations in result["paths"].items():
        for method, operation in operations.items():
            for status in _problems(path, method):
                operation["responses"][str(status)] = _problem(status)
            if path in OPEN:
                operation["security"] = []
    return result


def _problems(path: str, method: str) -> list[int]:
    """The error statuses that a route may return."""
    statuses = [400, 403, 408, 413, 429, 503]
    if path not in OPEN:
        statuses += [401]
    if path.startswith("/v1"):
        statuses += [422]
    if "{name}" in path:
        statuses += [404]
    if method == "post":
        statuses += [409]
    if (path, method) == ("/v1/studies", "post"):
        statuses += [415]
    return sorted(statuses)


def _problem(status: int) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "description": HINTS[status][0].upper() + HINTS[status][1:],
        "content": {MEDIA_TYPE: {"schema": {"$ref": REFERENCE.format(model="ProblemBody")}}},
    }
    if status == 401:
        answer["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    if status == 429:
        answer["headers"] = {"Retry-After": {"description": "Seconds", "schema": {"type": "integer"}}}
    return answer
