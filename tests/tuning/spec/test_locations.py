"""Which URLs hold a password."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import make_url

from proxytune.tuning.spec import locations
from proxytune.tuning.spec.locations import holds_password


@pytest.mark.parametrize(
    ("url", "held"),
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
def test_a_password_is_found_wherever_it_stands(url: str, held: bool) -> None:
    assert holds_password(url) is held


@given(st.from_regex(locations._PLAIN, fullmatch=True))
def test_no_password_is_overlooked_where_sqlalchemy_is_not_asked(url: str) -> None:
    parsed = make_url(url)
    assert parsed.password is None
    assert not parsed.query
