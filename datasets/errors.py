"""The one error that a user's data, path or option can cause."""


class DataError(ValueError):
    """Data or an option that cannot be used; the message is one line: the value, the rule, what to do."""
