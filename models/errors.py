"""Errors that a user of proxytune.models can cause."""


class ConfigError(ValueError):
    """A configuration is not valid; the message states the value, the rule and what to do, in one line."""


class ExportError(ValueError):
    """An export folder is damaged, incomplete or of a newer format; the message is one line."""
