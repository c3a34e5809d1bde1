"""Errors that are reported to users, each with the exit code of the command line."""


def one_line(error: BaseException | str) -> str:
    """The message of an error as one line of at most 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."


class ProxytuneError(Exception):
    """An error whose message is one line for the user: the value, the rule, what to do."""

    exit_code = 1


class InputError(ProxytuneError):
    """A study file, key, path or range that cannot be used. Nothing was started or written."""

    exit_code = 2


class OtherSpecError(InputError):
    """A study of this name exists with a different spec; the results would not be comparable."""


class HeldError(ProxytuneError):
    """Another driver holds the study."""

    exit_code = 3


class StorageError(ProxytuneError):
    """The study's storage cannot be read or written; acknowledged results are safe."""

    exit_code = 5


class Interrupted(ProxytuneError):
    """The study stopped before its budget was met; the same command resumes it."""

    exit_code = 75


RESUMED = "the same command resumes it"
"""The last part of the message about a stopped study."""


class Stopped(Interrupted):
    """The study was stopped by a user's request."""
