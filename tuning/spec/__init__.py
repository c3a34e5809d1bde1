"""The study file: what it holds, what is valid, and what its keys mean."""
