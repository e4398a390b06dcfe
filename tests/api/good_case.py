"""One object that the API server must accept."""

from typing import Any, NamedTuple

from tests.api.samples import Object


class Good(NamedTuple):
    name: str
    obj: Object
    wanted: dict[str, Any]
