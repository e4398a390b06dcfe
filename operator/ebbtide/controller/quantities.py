"""Field types of the settings that people write with a unit: durations (`10s`) and sizes (`256Mi`)."""

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from ebbtide.units import format_duration, parse_duration_s

_SIZE = re.compile(r"(\d+)(Ki|Mi|Gi)")
_SIZE_BYTES = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


@dataclass(frozen=True)
class Duration:
    """Marks a float field as a duration such as `10s` or `5m`: kept in seconds, from `least` to `most`."""

    least: str
    most: str
    metavar: ClassVar[str] = "DURATION"

    @property
    def allowed(self) -> str:
        """The range, as help and errors show it."""
        return f"{self.least} to {self.most}"

    def show(self, value: Any) -> str:
        """10.0 -> `10s`."""
        return format_duration(value)

    def parse(self, value: object) -> float:
        """`10s` -> 10.0; ValueError says what is allowed."""
        if not isinstance(value, str):  # a bare number in a file says no unit
            raise ValueError("a duration is written with its unit, such as 10s or 5m")
        seconds = parse_duration_s(value)
        if not parse_duration_s(self.least) <= seconds <= parse_duration_s(self.most):
            raise ValueError(f"a duration from {self.allowed} is allowed")
        return seconds

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.parse, handler(source))


@dataclass(frozen=True)
class Size:
    """Marks an int field as a size such as `256Mi`, kept in bytes, from 1Mi to 1024Gi."""

    metavar: ClassVar[str] = "SIZE"
    allowed: ClassVar[str] = "1Mi to 1024Gi"

    def show(self, value: Any) -> str:
        """268435456 -> `256Mi`."""
        return f"{value // 2**20}Mi"

    def parse(self, value: object) -> int:
        """`256Mi` -> 268435456; ValueError says what is allowed."""
        match = _SIZE.fullmatch(value) if isinstance(value, str) else None
        number = int(match[1]) * _SIZE_BYTES[match[2]] if match else 0
        if not 2**20 <= number <= 2**40:
            raise ValueError(f"a size from {self.allowed} is allowed, such as 256Mi")
        return number

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.parse, handler(source))
