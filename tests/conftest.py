"""Settings that all tests share."""

from hypothesis import settings

# Hypothesis fails an example that takes 200 ms by default: an assertion on wall time, which a busy machine breaks.
settings.register_profile("proxytune", deadline=None)
settings.load_profile("proxytune")
