"""One object that the API server must refuse."""

from typing import NamedTuple

from tests.api.samples import Object


class Bad(NamedTuple):
    name: str
    obj: Object
    wanted: tuple[str, ...]
    before: Object | None = None
