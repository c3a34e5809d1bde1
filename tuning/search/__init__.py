"""The search: which trial comes next, which one stops, and the ledger that alone writes the truth."""
