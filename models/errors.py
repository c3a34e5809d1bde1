"""What a user of proxytune.models can get wrong."""


class ConfigError(ValueError):
    """A configuration that cannot be built; the message names the value, the rule and what to do, in one line."""


class ExportError(ValueError):
    """An export folder that is damaged, incomplete or of a newer format; the message is one line."""
