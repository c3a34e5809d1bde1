"""Comparison across attention mechanisms: accuracy of studies, speed and memory over length."""
