"""Ray: the session a study runs in."""
