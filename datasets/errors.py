"""DataError, the error for invalid data, paths and options."""


class DataError(ValueError):
    """Data or an option cannot be used.

    lines are the lines of the message: the value, the rule, what to do. Line breaks and control characters within a line
    (from file names or data) are escaped. details is longer text for `--verbose`.
    """

    def __init__(self, *lines: str, details: str = "") -> None:
        super().__init__("\n".join(map(printable, lines)))
        self.details = details


def printable(text: str) -> str:
    """The text with control characters and other unprintable characters as escapes (`\\x1b`)."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else repr(character)[1:-1].replace("\\\\", "\\")
        for character in text
    )
