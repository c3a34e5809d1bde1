"""The search: Ray runs it, Optuna proposes, MLflow keeps a copy (the only top-level package that knows these three).

From Python: load_study, best, pareto_front, export_study; Client for a study service.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proxytune.tuning.api import best, export_study, load_study, pareto_front
    from proxytune.tuning.service.client import Client

__all__ = ["Client", "best", "export_study", "load_study", "pareto_front"]


def __getattr__(name: str) -> Any:
    # Workers import this package too, and must not load Optuna through it.
    if name == "Client":
        from proxytune.tuning.service.client import Client

        return Client
    if name in __all__:
        from proxytune.tuning import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
