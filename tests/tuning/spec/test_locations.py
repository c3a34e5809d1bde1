"""Detection of passwords in URLs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from proxytune.tuning.spec.locations import holds_password


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:////srv/studies/mlflow.db", False),
        ("postgresql+psycopg://ray@host:5432/studies", False),
        ("postgresql+psycopg:///studies?host=/run/postgresql", False),
        ("postgresql+psycopg://ray:secret@host/studies", True),
        ("postgresql+psycopg://ray:se/cr@et@host/studies", True),
        ("postgresql+psycopg://host/studies?user=ray&sslpassword=secret", True),
        ("http://user:secret@host:5000/", True),
        ("user:secret@host", True),
    ],
)
def test_password_is_found_at_any_position(url: str, expected: bool) -> None:
    assert holds_password(url) is expected


@given(
    st.lists(st.sampled_from(["me", "host", "5432", ":", "/", "@", "?", "&", "password=", "x"]), max_size=9)
)
def test_password_found_by_sqlalchemy_is_never_missed(parts: list[str]) -> None:
    url = "postgresql://" + "".join(parts)
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return
    if parsed.password is not None or "password" in parsed.query:
        assert holds_password(url)
