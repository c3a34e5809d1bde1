"""A study as it is stored: database, lease, attributes, checkpoints, steering requests."""
