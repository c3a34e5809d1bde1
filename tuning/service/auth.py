"""Bearer tokens: read from a file or the environment, kept as digests, compared in constant time."""

import hashlib
import os
import re
import secrets
import stat
import warnings
from collections.abc import Mapping
from pathlib import Path

from proxytune.tuning.errors import InputError

ENVIRONMENT = "PROXYTUNE_TOKEN"
MIN_LENGTH = 32
_LINE = re.compile(r"(?:([A-Za-z0-9][A-Za-z0-9._-]{0,63}):)?([A-Za-z0-9._~+/=-]+)")


def read_tokens(path: Path | None) -> dict[str, bytes]:
    """The digests of the tokens, by their bearers' names: of the file's `name:token` lines and of $PROXYTUNE_TOKEN.

    A line may be a token alone (its bearer is "token" then). Warns of a file that everybody can read.

    Raises:
        InputError: the file cannot be read, or a line is no `name:token`.
    """
    tokens: dict[str, bytes] = {}
    if token := os.environ.get(ENVIRONMENT, "").strip():
        _check(token, f"${ENVIRONMENT}")
        tokens["environment"] = _digest(token.encode())
    if path is None:
        return tokens
    try:
        if path.stat().st_mode & stat.S_IROTH:
            # not refused: container engines mount secrets this way, where nobody else is
            warnings.warn(
                f"token file {path}: everybody on this machine can read it; chmod 600", stacklevel=2
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
            raise InputError(f"token file {path}, line {number}: write it as name:token")
        name, token = match[1] or "token", match[2]
        _check(token, f"token file {path}, line {number}")
        if name in tokens:
            raise InputError(
                f"token file {path}, line {number}: a second token of {name}; give each a name: name:token"
            )
        tokens[name] = _digest(token.encode())
    if not tokens:
        raise InputError(f"token file {path}: holds no token; write a line name:token")
    return tokens


def _check(token: str, where: str) -> None:
    if len(token) < MIN_LENGTH:
        raise InputError(
            f"{where}: a token of {len(token)} characters can be guessed; {MIN_LENGTH} at least, "
            "for example from: openssl rand -hex 32"
        )


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def bearer(tokens: Mapping[str, bytes], authorization: bytes | None) -> str | None:
    """Whose token the Authorization header carries; none: nobody's. Looks at all of them, whichever matches."""
    scheme, _, token = (authorization or b"").strip().partition(b" ")
    if scheme.lower() != b"bearer":
        return None
    presented, found = _digest(token.strip()), None
    for name, known in tokens.items():
        if secrets.compare_digest(presented, known):
            found = name
    return found
