"""Using an export: predict, evaluate, train again, register as an MLflow model."""
