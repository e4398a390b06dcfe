"""Rows of the ledger's tables, within the caller's transaction: `meta`, payers' numbers, rows written whole."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from ebbtide.ledger import schema
from ebbtide.model.money import Payer

_AT_ONCE = 500  # values in one statement
Row = dict[str, Any]


def get(connection: sa.Connection, key: str, *, for_update: bool = False) -> str | None:
    """What `meta` says; None: nothing yet."""
    query = sa.select(schema.meta.c.value).where(schema.meta.c.key == key)
    value: str | None = connection.execute(query.with_for_update() if for_update else query).scalar()
    return value


def put(connection: sa.Connection, key: str, value: str) -> None:
    """Say it in `meta`."""
    replace(connection, schema.meta, ("key",), [{"key": key, "value": value}])


def replace(connection: sa.Connection, table: sa.Table, keys: Sequence[str], rows: Sequence[Row]) -> None:
    """Rows of new keys, and of known ones in place of the old: a few statements, however many rows."""
    if not rows:
        return
    same = sa.and_(*(table.c[key] == sa.bindparam(f"old_{key}") for key in keys))
    connection.execute(sa.delete(table).where(same), [{f"old_{key}": row[key] for key in keys} for row in rows])
    connection.execute(sa.insert(table), list(rows))


class Payers:
    """What their numbers stand for, each decoded once; read when the first is asked for."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._known: dict[int, Payer] = {}

    def __getitem__(self, number: int) -> Payer:
        if number not in self._known:
            self._read()
        return self._known[number]

    def by_service(self) -> dict[tuple[str, str], list[int]]:
        """Numbers of all by (namespace, name) of the service."""
        self._read()
        found: dict[tuple[str, str], list[int]] = defaultdict(list)
        for number, payer in self._known.items():
            found[payer.namespace, payer.service].append(number)
        return found

    def _read(self) -> None:
        rows = self._connection.execute(sa.select(schema.payer.c.id, schema.payer.c.body))
        self._known = {each: msgspec.json.decode(body, type=Payer) for each, body in rows}


def payer_ids(connection: sa.Connection, payers: Collection[Payer]) -> dict[Payer, int]:
    """The number of each payer; those that are new get one."""
    bodies = {msgspec.json.encode(payer).decode(): payer for payer in payers}
    found = _numbers(connection, list(bodies))
    missing = [{"body": body} for body in bodies if body not in found]
    if missing:
        connection.execute(sa.insert(schema.payer), missing)
        found |= _numbers(connection, [row["body"] for row in missing])
    return {payer: found[body] for body, payer in bodies.items()}


def _numbers(connection: sa.Connection, bodies: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for first in range(0, len(bodies), _AT_ONCE):
        query = sa.select(schema.payer.c.body, schema.payer.c.id)
        some = query.where(schema.payer.c.body.in_(bodies[first : first + _AT_ONCE]))
        found |= {row.body: row.id for row in connection.execute(some)}
    return found
