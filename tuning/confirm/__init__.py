"""Confirmation: the best candidates retrained on fresh seeds, and the test split."""
