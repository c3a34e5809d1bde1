"""Tags and metrics from which Optuna's MLflow storage (``mlflow.optuna.storage.MlflowStorage``) reads a study's runs.

That storage derives a trial's state from the status of its run. A pruned trial is FINISHED in MLflow, so Optuna reads it
as complete. It therefore has the value of its last report and violates a constraint ``full_budget``, so that it is never
the best trial. Values of several objectives are not written: the storage reads them only from runs without other metrics.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from optuna.distributions import distribution_to_json

from proxytune.tuning.spec.constraints import excesses, parse_constraints
from proxytune.tuning.spec.outcome import Outcome
from proxytune.tuning.spec.space import distribution_of

FULL_BUDGET = "full_budget"


def study_tags(objectives: Mapping[str, str]) -> dict[str, str]:
    """Tags of the study's run."""
    return {"optuna.study_direction": ",".join(direction.upper() for direction in objectives.values())}


def trial_tags(number: int, params: Mapping[str, Any], space: Mapping[str, Any]) -> dict[str, str]:
    """Tags of a trial's run: its number, its parameters and their distributions."""
    found = {key: distribution_of(space[key], value) for key, value in params.items() if key in space}
    tags = {"numbers": str(number)}
    tags["param_directions"] = json.dumps({key: distribution_to_json(one) for key, one in found.items()})
    for key, distribution in found.items():
        tags[f"param_internal_val_{key}"] = json.dumps(float(distribution.to_internal_repr(params[key])))
    return tags


def end_tags(outcome: Outcome, last: Mapping[str, float], constraints: Mapping[str, str]) -> dict[str, str]:
    """Tags of a trial that ended: its excess over each constraint; 0 or less is feasible."""
    if outcome.mlflow_status != "FINISHED":
        return {}
    excess = {FULL_BUDGET: float(outcome is not Outcome.COMPLETE)}
    excess |= excesses(parse_constraints(constraints), last)
    return {f"sys_constraints:{name}": json.dumps(value) for name, value in excess.items()}


def end_metrics(
    outcome: Outcome, last: Mapping[str, float], objectives: Mapping[str, str]
) -> dict[str, float]:
    """Metrics of a trial that ended: the value of a single objective, or the worst value if it was not reported."""
    if outcome.mlflow_status != "FINISHED" or len(objectives) != 1:
        return {}
    ((objective, direction),) = objectives.items()
    value = last.get(objective, math.nan)
    return {"value": (math.inf if direction == "minimize" else -math.inf) if math.isnan(value) else value}
