"""The study file: sections, validation, search space, constraints, metrics and ranking."""
