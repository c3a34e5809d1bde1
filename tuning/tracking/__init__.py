"""Ships the journal to MLflow."""
