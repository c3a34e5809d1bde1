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
    st.from_regex(
        r"[a-z+]{1,9}://([a-z]{0,3}(:[a-z:/]{0,3})?@)?[A-Za-z0-9.-]{0,5}(:[0-9]{0,6})?/?[a-z/:@]{0,5}(\?password=.)?",
        fullmatch=True,
    )
)
def test_password_found_by_sqlalchemy_is_never_missed(url: str) -> None:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return
    has_password = parsed.password is not None or "password" in parsed.query
    assert holds_password(url) == has_password
