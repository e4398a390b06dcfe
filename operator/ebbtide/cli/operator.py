"""`ebbtide operator`: run the operator. Its options are the settings, one for one, so that none can be forgotten."""

import asyncio
from pathlib import Path
from typing import Any, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from ebbtide.controller.quantities import Duration, Size
from ebbtide.controller.settings import ENV_PREFIX, load_settings, settings_names


def _help(field: FieldInfo) -> str:
    marker = next((mark for mark in field.metadata if isinstance(mark, Duration | Size)), None)
    allowed = f" Range: {marker.allowed}." if marker else ""
    if field.default_factory is not None or field.default in (None, (), ""):
        return f"{field.description}{allowed}"  # the description says what unset means
    default = (
        marker.show(field.default)
        if marker
        else f"{field.default:g}"
        if isinstance(field.default, float)
        else ",".join(field.default)
        if isinstance(field.default, tuple)
        else str(field.default).lower()
    )
    return f"{field.description}{allowed} Default: {default}."


def _choices(field: FieldInfo) -> tuple[str, ...]:
    values = get_args(field.annotation)
    return values if get_origin(field.annotation) is not None and all(isinstance(v, str) for v in values) else ()


def _option(name: str, field: FieldInfo) -> click.Option:
    flag, marker = f"--{name.replace('_', '-')}", next(iter(field.metadata), None)
    if field.annotation is bool:
        return click.Option([f"{flag}/--no-{flag[2:]}", name], default=None, help=_help(field))
    # plain text: the settings check the value, so that flags, environment and file are refused in the same words
    metavar = "|".join(_choices(field)) or getattr(marker, "metavar", None) or _metavar(field)
    return click.Option([flag, name], metavar=metavar, help=_help(field))


def _metavar(field: FieldInfo) -> str:
    annotation = str(field.annotation)
    return next(
        (
            word
            for part, word in (("Path", "PATH"), ("tuple", "NAME,..."), ("int", "N"), ("float", "N"))
            if part in annotation
        ),
        "TEXT",
    )


def _run(config: Path | None, **flags: Any) -> None:
    settings = load_settings({name: value for name, value in flags.items() if value is not None}, config)

    from ebbtide.controller.logs import set_up_logging
    from ebbtide.controller.operator import run_operator

    set_up_logging(settings.log_level, settings.log_format)
    asyncio.run(run_operator(settings))


operator = click.Command(
    "operator",
    callback=_run,
    help=(
        "Run the operator: watch InferenceServices and GPUPools, and scale what is in mode Auto.\n\n"
        f"Each option may also be given in the environment (for example {ENV_PREFIX}CYCLE_INTERVAL=10s) or in the file "
        "given with --config (cycle_interval: 10s). A flag wins over the environment, which wins over the file.\n\n"
        "Ends with 0 after SIGTERM or SIGINT, with 1 when it cannot start or its self-test of prices "
        "and ceilings fails, with 3 when it lost the Lease."
    ),
    short_help="Run the operator.",
    params=[
        click.Option(
            ["--config"],
            type=click.Path(path_type=Path),
            envvar=f"{ENV_PREFIX}CONFIG",
            help="YAML or TOML file with settings.",
        ),
        *(_option(name, field) for name, field in settings_names().items()),
    ],
)
