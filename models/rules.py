"""Rules shared by the configurations; each raises a ConfigError that states the value, the rule and what to do."""

from __future__ import annotations

import math
from difflib import get_close_matches

from proxytune.models.errors import ConfigError


def require_at_least(name: str, value: int, lowest: int, highest: int = 2**20) -> None:
    """Require an integer from `lowest` to `highest`, a limit that catches typing errors."""
    if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
        raise ConfigError(f"{name} is {value!r}: it must be an integer of at least {lowest}")
    if value > highest:
        raise ConfigError(f"{name} is {value}: it must be at most {highest}")


def require_probability(name: str, value: float) -> None:
    """Require a number in [0, 1)."""
    if not isinstance(value, int | float) or not 0 <= value < 1:
        raise ConfigError(f"{name} is {value!r}: it must be a number in [0, 1)")


def require_positive(name: str, value: float) -> None:
    """Require a finite number above zero."""
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ConfigError(f"{name} is {value!r}: it must be a finite number above 0")


def require_one_of(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Require one of `choices`."""
    if value not in choices:
        near = get_close_matches(str(value), [str(choice) for choice in choices], n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"{name} is {value!r}: {hint}choose one of {', '.join(map(str, choices))}")


def require_not_negative(name: str, value: float) -> None:
    """Require a finite number of at least zero."""
    if not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ConfigError(f"{name} is {value!r}: it must be a finite number of at least 0")


def require_landmarks(name: str, value: int, max_length: int) -> None:
    """Require a number of landmarks from 1 to the number of tokens."""
    require_at_least(name, value, 1)
    if value > max_length:
        raise ConfigError(
            f"{name} is {value}: it must not exceed max_length {max_length}, the number of tokens"
        )


def require_kernel_size(name: str, value: int) -> None:
    """Require 0 (no convolution) or an odd size, so that the output is as long as the input."""
    require_at_least(name, value, 0)
    if value and value % 2 == 0:
        raise ConfigError(f"{name} is {value}: it must be odd, or 0 for no convolution")
