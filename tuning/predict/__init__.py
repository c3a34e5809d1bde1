"""Using an export: predict, evaluate, retrain, register as an MLflow model."""
