"""The export: which trial is chosen, and the folder that is written and verified."""
