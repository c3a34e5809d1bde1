"""The errors a user can meet, each with the exit code of the command line."""


class ProxytuneError(Exception):
    """One clear line for the user: the value, the rule, what to do."""

    exit_code = 1


class InputError(ProxytuneError):
    """A study file, key, path or range that cannot be used. Nothing was started or written."""

    exit_code = 2


class OtherSpecError(InputError):
    """A study of this name exists with another spec, under which its results would not be comparable."""


class HeldError(ProxytuneError):
    """Another driver holds the study."""

    exit_code = 3


class StorageError(ProxytuneError):
    """The study's storage cannot be read or written; what was acknowledged before is safe."""

    exit_code = 5


class Interrupted(ProxytuneError):
    """The study stopped before its budget was met and goes on with the same command."""

    exit_code = 75


RESUMED = "the same command resumes it"
"""Ends the line of a study that was stopped."""


class Stopped(Interrupted):
    """The study was stopped because somebody requested it of its driver."""
