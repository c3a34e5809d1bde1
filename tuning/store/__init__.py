"""A study in storage: database, lease, attributes, checkpoints, steering requests."""
