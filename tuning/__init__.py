"""The search: Ray runs it, Optuna proposes, MLflow mirrors (the only room that knows these three)."""
