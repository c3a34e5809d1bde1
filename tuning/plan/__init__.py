"""Simulates a study in virtual time to predict its cost before anything is trained."""
