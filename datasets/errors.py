"""The one error that a user's data, path or option can cause."""


class DataError(ValueError):
    """Data or an option that cannot be used.

    Each of lines is a line of the message: the value, the rule, what to do. Line breaks and control characters
    inside a line (from file names or data) are escaped. details is longer text for `--verbose`.
    """

    def __init__(self, *lines: str, details: str = "") -> None:
        super().__init__("\n".join(map(printable, lines)))
        self.details = details


def printable(text: str) -> str:
    """The text with control characters, and others that a terminal may act upon, as escapes (`\\x1b`)."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else repr(character)[1:-1].replace("\\\\", "\\")
        for character in text
    )
