"""The export: choice of the trial, writing and verification of its folder."""
