"""Bearer tokens: read from a file or the environment, kept as digests, compared in constant time."""

import hashlib
import logging
import os
import re
import secrets
import stat
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from proxytune.tuning.errors import InputError

ENVIRONMENT = "PROXYTUNE_TOKEN"
MIN_LENGTH = 32
SCOPES = ("metrics", "read", "steer", "submit")
"""Scopes of a token; each includes those before it."""
_LINE = re.compile(
    rf"(?:([A-Za-z0-9][A-Za-z0-9._-]{{0,63}}):)?(?:({'|'.join(SCOPES)}):)?([A-Za-z0-9._~+/=-]+)"
)


@dataclass(frozen=True)
class Token:
    """A token: its holder's name, its scope and its digest."""

    name: str
    scope: str
    digest: bytes = field(repr=False)

    def may(self, scope: str) -> bool:
        """Whether the token's scope includes this scope."""
        return SCOPES.index(scope) <= SCOPES.index(self.scope)


class Tokens:
    """The tokens of $PROXYTUNE_TOKEN and of a file, which is read again when it has changed.

    A token that is removed from the file is therefore rejected. While the file cannot be read, every token is rejected.

    Raises:
        InputError: as `read_tokens`.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._stamp = _stamp(path)
        self._known = read_tokens(path)

    def __bool__(self) -> bool:
        return self._path is not None or bool(self._known)

    def bearer(self, authorization: bytes | None) -> Token | None:
        """The token of the Authorization header; None if it is not valid."""
        if (stamp := _stamp(self._path)) != self._stamp:
            self._stamp = stamp
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # already reported when the server started
                    self._known = read_tokens(self._path)
            except InputError as error:
                logging.getLogger("uvicorn.error").error("%s; no token is valid until this is fixed", error)
                self._known = {}
        return bearer(self._known, authorization)


def _stamp(path: Path | None) -> object:
    """Identity of the file's content; None if there is no file."""
    try:
        found = path and path.stat()
    except OSError:
        return None
    return found and (found.st_ino, found.st_mtime_ns, found.st_size)


def read_tokens(path: Path | None) -> dict[str, Token]:
    """Read the tokens of $PROXYTUNE_TOKEN and of a file with lines `name:token` or `name:SCOPE:token`, by name.

    The default scope is submit. A line may hold a token alone; its name is then "token". Warns if the file is world-readable.

    Raises:
        InputError: the file cannot be read, or a line has another form.
    """
    tokens: dict[str, Token] = {}
    if token := os.environ.get(ENVIRONMENT, "").strip():
        _check(token, f"${ENVIRONMENT}")
        tokens["environment"] = Token("environment", SCOPES[-1], _digest(token.encode()))
    if path is None:
        return tokens
    try:
        if path.stat().st_mode & stat.S_IROTH:
            # not rejected: container engines mount secrets this way, without other users
            warnings.warn(
                f"token file {path}: every user of this machine can read it; chmod 600", stacklevel=2
            )
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"token file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"token file {path}: not text") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:  # without its text, which may be a secret
            raise InputError(f"token file {path}, line {number}: write it as name:token or name:SCOPE:token")
        name, scope, token = match[1] or "token", match[2] or SCOPES[-1], match[3]
        _check(token, f"token file {path}, line {number}")
        if name in tokens:
            raise InputError(
                f"token file {path}, line {number}: a second token of {name}; give each a name: name:token"
            )
        tokens[name] = Token(name, scope, _digest(token.encode()))
    if not tokens:
        raise InputError(f"token file {path}: contains no token; add a line name:token")
    return tokens


def _check(token: str, where: str) -> None:
    if len(token) < MIN_LENGTH:
        raise InputError(
            f"{where}: a token of {len(token)} characters can be guessed; use at least {MIN_LENGTH}, "
            "for example from: openssl rand -hex 32"
        )


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def bearer(tokens: dict[str, Token], authorization: bytes | None) -> Token | None:
    """The token of the Authorization header; None if it is unknown. Compares with every token, for constant time."""
    scheme, _, token = (authorization or b"").strip().partition(b" ")
    if scheme.lower() != b"bearer":
        return None
    presented, found = _digest(token.strip()), None
    for known in tokens.values():
        if secrets.compare_digest(presented, known.digest):
            found = known
    return found
