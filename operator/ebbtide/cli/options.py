"""Options and types that several commands share."""

from typing import Any

import click

from ebbtide.units import format_duration, parse_duration_s

SANDBOX_NAME = click.option("--name", default="default", show_default=True, help="Several sandboxes live side by side.")


class Duration(click.ParamType[float]):
    """A duration such as `90s` or `10m`, in seconds; refuses what is below `least_s`, because `why`."""

    name = "duration"

    def __init__(self, least_s: float, why: str) -> None:
        self._least_s, self._why = least_s, why

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """From its text; a number is taken as it is."""
        if isinstance(value, float):
            return value
        try:
            seconds = parse_duration_s(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if seconds < self._least_s:
            self.fail(f"{value} {self._why}: at least {format_duration(self._least_s)} is allowed", param, ctx)
        return seconds
