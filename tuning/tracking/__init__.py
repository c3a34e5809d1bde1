"""Shipping of the journal to MLflow."""
