"""Where a ledger is kept: a file, and a real PostgreSQL that the tests start."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from ebbtide.ledger import schema
from tests.ledger import postgres


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    found = postgres.binaries()
    if found is None:
        pytest.skip("no PostgreSQL on this machine: install the package postgresql to test against it")
    with postgres.running(found) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    if request.param == "sqlite":
        return tmp_path / "ledger.sqlite"
    url: str = request.getfixturevalue("server")
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    schema.metadata.drop_all(engine)
    engine.dispose()
    return url
