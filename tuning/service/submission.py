"""POST /v1/studies: start or resume a study from its file."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.concurrency import run_in_threadpool

from proxytune.tuning.run.begin import begin_study
from proxytune.tuning.run.look import wanted_budget
from proxytune.tuning.service.messages import Submitted
from proxytune.tuning.service.problems import NotFound
from proxytune.tuning.service.routes import StateOf, documented
from proxytune.tuning.service.specs import JSON, YAML, admit, read_body
from proxytune.tuning.service.state import State, who_asks
from proxytune.tuning.spec.same_spec import check_same
from proxytune.tuning.store.steering import extend

EXAMPLE = {
    "name": "listops-mini",
    "task": {"name": "listops-mini"},
    "model": {"attention": "proxyformer", "num_layers": 2, "embedding_dim": 64, "num_heads": 2},
    "training": {
        "steps": 1200,
        "warmup_steps": 120,
        "batch_size": 32,
        "learning_rate": 1e-3,
        "eval_every": 200,
    },
    "search": {
        "space": {
            "model.num_proxies": {"choice": [16, 32, 64, 128]},
            "model.contrastive_temperature": {"low": 0.02, "high": 1.0, "log": True},
            "model.dropout": {"low": 0.0, "high": 0.4},
        },
        "stopping": {"name": "asha", "min_steps": 200, "reduction_factor": 3},
        "trials": 12,
    },
}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The study file",
        "content": {
            JSON: {"schema": {"$ref": "#/components/schemas/StudySpec"}, "example": EXAMPLE},
            YAML[0]: {"schema": {"$ref": "#/components/schemas/StudySpec"}, "example": EXAMPLE},
        },
    }
}

router = APIRouter(prefix="/v1", dependencies=[Depends(documented)], tags=["studies"])


@router.post("/studies", status_code=202, summary="Start or resume a study", openapi_extra=BODY)
async def submit_study(request: Request, state: StateOf, who: Annotated[str, Depends(who_asks)]) -> Submitted:
    """Submit a study to the cluster. A study of the same name and spec is resumed, with a larger budget if requested.
    The server sets the study's folder, database and MLflow URI; `task.root` must lie under one of its data roots.
    """
    body = await request.body()
    return await run_in_threadpool(_submit, body, request.headers.get("content-type", ""), state, who)


def _submit(body: bytes, content_type: str, state: State, who: str) -> Submitted:
    spec = admit(read_body(body, content_type), state.settings)
    with state.creating:
        created = False
        try:
            check_same(state.studies.get(spec.name).spec, spec)
        except NotFound:
            created = True
        state.runs.require()
        if created:
            begin_study(spec).storage.engine.dispose()  # listed at once, and reserves the name
    study = state.studies.get(spec.name)
    budget = wanted_budget(study.spec, spec, study.budget)
    if budget > study.budget:
        extend(study, budget, who)
    job = state.runs.start(study, spec, who)
    return Submitted(study=spec.name, job=job, created=created, budget=study.budget)
