"""What a user of proxytune.models can get wrong."""


class ConfigError(ValueError):
    """A configuration that cannot be built; the message names the value, the rule and what to do, in one line."""
