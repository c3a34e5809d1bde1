"""The journal: every event of a study, append-only, and the counters that it adds up to."""
