"""The search: which trial comes next, which one stops, and the controller that alone writes the truth."""
