"""The outbox and what ships it to MLflow."""
