"""A search in virtual time, and what a study will take before anything is spent."""
