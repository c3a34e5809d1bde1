"""The journal: the append-only events of a study, and the counters derived from them."""
