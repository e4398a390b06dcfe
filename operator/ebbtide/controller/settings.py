"""Every setting of the operator in one place: name, unit, default, range, and what it means when unset.

A value comes from a flag, else the environment (EBBTIDE_*), else the file given with --config, else the default.
Values are checked once, here; an error names the setting, where it came from, its value and what is allowed. Unknown
keys of the file and misspelt variables are refused: a setting that is silently ignored is worse than an error. No
secret is a setting: tokens and passwords are read from files, again and again, so that they may rotate.
"""

import difflib
import os
import socket
import tomllib
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

import yaml
from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
    YamlConfigSettingsSource,
)

from ebbtide.controller.quantities import Duration, Size
from ebbtide.errors import ConfigurationError
from ebbtide.model.labels import COST_LABELS
from ebbtide.money.calendar import zone_named
from ebbtide.units import format_duration

ENV_PREFIX = "EBBTIDE_"
_SERVICE_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_ROUGHLY, _ALMOST = 0.6, 0.85  # how like a setting's name a misspelt one is (1: equal)


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _zone(value: object) -> ZoneInfo:
    zone = zone_named(value) if isinstance(value, str) else None
    if zone is None:
        raise ValueError("a time zone is allowed, such as Europe/Berlin or UTC")
    return zone


def _own_namespace() -> str:
    try:
        return _SERVICE_ACCOUNT_NAMESPACE.read_text().strip()
    except OSError:
        return "ebbtide-system"


def _identity() -> str:
    # the random part makes a restarted process another candidate, so that it never believes in an old lease
    return f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}"


_NAME, _URL = r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$", r"^https?://\S+$"
_LABEL = r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
_MOST_LABELS = 10  # each change of a value begins new rows, so what changes all the time is no label to keep
_LONGEST_LABELS = 500  # characters of all names: whom a cost is put down to is one key, of 2,704 bytes in PostgreSQL
_TENANT = r"^[A-Za-z0-9-]+:\s*\S+$"
# What each pattern allows, for people
_ALLOWED = {
    _NAME: "lower-case letters, digits, - and . are allowed, at most 253, with a letter or digit at both ends",
    _URL: "a URL that begins with http:// or https:// is allowed, without spaces, such as http://prometheus:9090",
    _LABEL: "a label's name is allowed, such as team or example.com/cost-centre",
    _TENANT: "NAME:VALUE is allowed, such as X-Scope-OrgID:team-a",
}
Name = Annotated[str, Field(pattern=_NAME, min_length=1)]
Labels = Annotated[tuple[Annotated[str, Field(pattern=_LABEL)], ...], BeforeValidator(_split), NoDecode]
Names = Annotated[tuple[Name, ...], BeforeValidator(_split), NoDecode]


def _setting(name: str, description: str, default: Any = None, **options: Any) -> Any:
    if "default_factory" not in options:
        options["default"] = default
    return Field(alias=name, description=description, **options)


class Settings(BaseSettings):
    """The operator's settings. Fields carry their unit; the name people write (the alias) does not."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_prefix_target="all", extra="forbid", frozen=True, validate_default=False
    )

    kubeconfig: Path | None = _setting(
        "kubeconfig", "Kubeconfig file. Unset: the Pod's own service account, else KUBECONFIG, else ~/.kube/config."
    )
    context: str | None = _setting("context", "Context in the kubeconfig. Unset: its current one.")
    namespace: Name = _setting(
        "namespace",
        "Namespace of the operator's own Deployment and Lease. Unset: the Pod's own, else ebbtide-system.",
        default_factory=_own_namespace,
    )
    deployment: Name = _setting(
        "deployment", "The operator's own Deployment, which cluster-wide Events name.", "ebbtide"
    )
    watch_namespaces: Names = _setting(
        "watch_namespaces",
        "Namespaces whose services are served, separated by commas; pods and nodes are read everywhere. Empty: all.",
        (),
    )

    prometheus_url: str | None = _setting(
        "prometheus_url",
        "Base URL of Prometheus or what speaks its query API. Unset: no engine metrics, so every service is held.",
        pattern=_URL,
    )
    prometheus_token_file: Path | None = _setting(
        "prometheus_token_file", "File with a bearer token, read anew when it changes. Unset: none is sent."
    )
    prometheus_username: str = _setting(
        "prometheus_username", "User name for basic auth; needs --prometheus-password-file. Empty: no basic auth.", ""
    )
    prometheus_password_file: Path | None = _setting(
        "prometheus_password_file", "File with the password for basic auth; needs --prometheus-username."
    )
    prometheus_matchers: str = _setting(
        "prometheus_matchers",
        'Label matchers added to every query, for example cluster="prod" where one store holds many clusters.',
        "",
    )
    prometheus_tenant: str | None = _setting(
        "prometheus_tenant",
        "Tenant header as NAME:VALUE, for example X-Scope-OrgID:team-a. Unset: none is sent.",
        pattern=_TENANT,
    )
    prometheus_ca_file: Path | None = _setting(
        "prometheus_ca_file", "PEM file with the CAs that Prometheus' certificate is checked with. Unset: the system's."
    )
    prometheus_timeout_s: Annotated[float, Duration("1s", "1m")] = _setting(
        "prometheus_timeout", "Longest wait for one query; a slower one counts as unanswered.", 8.0
    )
    rate_window_s: Annotated[float, Duration("15s", "15m")] = _setting(
        "rate_window", "Window over which counters become rates; at least two scrape intervals.", 60.0
    )
    scrape_staleness_s: Annotated[float, Duration("10s", "15m")] = _setting(
        "scrape_staleness", "A value whose newest scrape is older counts as stale and lowers nothing.", 60.0
    )

    price_table: Path | None = _setting(
        "price_table",
        "CSV file of prices (item,per_gpu_hour,currency,effective_from) for pools whose price.source is Table, read "
        "anew when it changes. Unset: such pools have no price.",
    )
    cycle_interval_s: Annotated[float, Duration("1s", "5m")] = _setting(
        "cycle_interval", "Time from the start of one cycle to the next; a changed spec does not wait for it.", 10.0
    )
    writes_per_second: float = _setting(
        "writes_per_second",
        "Most writes per second of statuses and Events together; what matters goes first, scaling never waits.",
        20.0,
        gt=0,
        le=1000,
    )
    data_dir: Path = _setting(
        "data_dir",
        "Folder for what outlives a restart: the SQLite store and the flight recorder.",
        Path("/var/lib/ebbtide"),
    )
    cost_labels: Labels = _setting(
        "cost_labels",
        "Labels of InferenceServices and of others' pods that hold GPUs, which the ledger keeps for `ebbtide cost --by "
        f"label:NAME`; with commas, {_MOST_LABELS} at most. Time before a label was kept stays without it.",
        COST_LABELS,
    )
    ledger: str | None = _setting(
        "ledger",
        "Database of what GPUs cost, as a URL such as postgresql://ebbtide@db/ebbtide; its password is in the file "
        "that PGPASSFILE names. Unset: ledger.sqlite in the data folder.",
        None,
    )
    ledger_keep_lifetimes_s: Annotated[float, Duration("35d", "3660d")] = _setting(
        "ledger_keep_lifetimes",
        "How long the ledger keeps what ran from when to when; what becomes known later, or is priced anew, changes "
        "nothing before that. The default covers this month and the last in any time zone.",
        62 * 86_400.0,
    )
    ledger_keep_hours_s: Annotated[float, Duration("35d", "3660d")] = _setting(
        "ledger_keep_hours",
        "How long the ledger keeps cost and usage by the hour; days are kept for good. Until then reports are exact in "
        "any time zone, then in that of --ledger-time-zone.",
        62 * 86_400.0,
    )
    ledger_time_zone: Annotated[ZoneInfo, BeforeValidator(_zone)] = _setting(
        "ledger_time_zone",
        "Whose days the ledger adds hours up to, such as Europe/Berlin; of older time it knows no others. Another one "
        "holds for days from then on. Unset: UTC.",
        default_factory=lambda: ZoneInfo("UTC"),
    )
    flight_recorder_bytes: Annotated[int, Size()] = _setting(
        "flight_recorder_size", "Disk for recorded decisions; the oldest give way.", 256 * 2**20
    )

    leader_election: bool = _setting(
        "leader_election", "Act only while holding the Lease. Turn off for a single process on a laptop.", True
    )
    lease_name: Name = _setting("lease_name", "Name of the Lease that replicas of the operator compete for.", "ebbtide")
    lease_namespace: Name | None = _setting("lease_namespace", "Its namespace. Unset: --namespace.")
    lease_duration_s: Annotated[float, Duration("3s", "5m")] = _setting(
        "lease_duration", "A Lease not renewed for this long may be taken over; whole seconds.", 15.0
    )
    renew_deadline_s: Annotated[float, Duration("2s", "4m")] = _setting(
        "renew_deadline", "A leader that could not renew for this long ends; shorter than --lease-duration.", 10.0
    )
    retry_period_s: Annotated[float, Duration("100ms", "1m")] = _setting(
        "retry_period", "Time between attempts to take or renew the Lease.", 2.0
    )
    identity: str = _setting(
        "identity",
        "Who this process is in the Lease. Unset: host name and a random suffix.",
        default_factory=_identity,
        min_length=1,
        max_length=253,
    )

    http_host: str = _setting("http_host", "Address that /healthz, /readyz and /metrics listen on.", "0.0.0.0")
    http_port: int = _setting("http_port", "Their port; 0 takes a free one and logs it.", 8080, ge=0, le=65535)
    log_level: Literal["debug", "info", "warning", "error"] = _setting("log_level", "Least severe line logged.", "info")
    log_format: Literal["text", "json"] = _setting("log_format", "Lines as key=value text or as JSON.", "text")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if bool(self.prometheus_username) != (self.prometheus_password_file is not None):
            raise ValueError("prometheus_username and prometheus_password_file: set both or neither")
        if self.prometheus_token_file is not None and self.prometheus_username:
            raise ValueError("prometheus_token_file and prometheus_username: only one of them is allowed")
        for label in self.cost_labels:
            if self.cost_labels.count(label) > 1:
                raise ValueError(f"cost_labels: {label} is named twice")
        if len(self.cost_labels) > _MOST_LABELS:
            raise ValueError(f"cost_labels: {len(self.cost_labels)} are named, and at most {_MOST_LABELS} are allowed")
        if (length := sum(map(len, self.cost_labels))) > _LONGEST_LABELS:
            raise ValueError(
                f"cost_labels: their names have {length} characters, and at most {_LONGEST_LABELS} are allowed"
            )
        for name, seconds in (("lease_duration", self.lease_duration_s), ("rate_window", self.rate_window_s)):
            if seconds != int(seconds):
                raise ValueError(f"{name}: {seconds:g}s is not allowed: whole seconds only")
        if not self.retry_period_s < self.renew_deadline_s < self.lease_duration_s:
            raise ValueError(
                f"retry_period {format_duration(self.retry_period_s)} < renew_deadline "
                f"{format_duration(self.renew_deadline_s)} < lease_duration {format_duration(self.lease_duration_s)} "
                "is needed: a leader must notice and end before another may take over"
            )
        return self


def settings_names() -> dict[str, FieldInfo]:
    """The name people write -> its field, in the order of `--help`."""
    return {field.alias or name: field for name, field in Settings.model_fields.items()}


def load_settings(
    flags: Mapping[str, Any] | None = None, config: Path | None = None, environment: Mapping[str, str] | None = None
) -> Settings:
    """Settings from flags (by name, only those given), the environment, the file `config`, and defaults.

    `environment` is for the check of unknown names alone. Raises ConfigurationError with one line per fault.
    """
    given = dict(flags or {})
    environment = os.environ if environment is None else environment
    _refuse_misspelt(environment)
    in_file = _read(config) if config else {}
    for name in in_file:
        if name not in settings_names():
            hint = _meant(name, _ROUGHLY) or "'ebbtide operator --help' lists all settings"
            raise ConfigurationError(f"setting {name!r} in {config} is unknown: {hint}")

    class Loaded(Settings):
        """Settings whose file is this call's."""

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return (init_settings, env_settings, *([_file_source(settings_cls, config)] if config else []))

    try:
        return Loaded(**given)
    except ValidationError as error:
        lines = [_explain(fault, given, in_file, config) for fault in error.errors()]
        raise ConfigurationError("\n".join(lines)) from error


def _refuse_misspelt(environment: Mapping[str, str]) -> None:
    """EBBTIDE_CYCLE_INTERVALL is a mistake; EBBTIDE_PORT (set by Kubernetes) or EBBTIDE_DOWNLOAD_ETCD is not ours."""
    for variable in environment:
        name = variable.removeprefix(ENV_PREFIX).lower()
        if variable.startswith(ENV_PREFIX) and name not in settings_names() and (hint := _meant(name, _ALMOST)):
            raise ConfigurationError(f"environment variable {variable} is unknown: {hint}")


def _meant(name: str, likeness: float) -> str:
    close = difflib.get_close_matches(name, settings_names(), 1, likeness)
    return f"did you mean {close[0]}?" if close else ""


def _file_source(settings_class: type[BaseSettings], config: Path) -> PydanticBaseSettingsSource:
    if config.suffix == ".toml":
        return TomlConfigSettingsSource(settings_class, config)
    return YamlConfigSettingsSource(settings_class, config)


def _read(config: Path) -> dict[str, Any]:
    """The file as a mapping, to name faults before pydantic sees it; a file that is missing is a fault."""
    try:
        text = config.read_text()
        content = tomllib.loads(text) if config.suffix == ".toml" else yaml.safe_load(text) or {}
    except (OSError, tomllib.TOMLDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"settings file {config}: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ConfigurationError(f"settings file {config}: a mapping of setting names to values is allowed")
    return content


def _explain(fault: ErrorDetails, given: Mapping[str, Any], in_file: Mapping[str, Any], config: Path | None) -> str:
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "string_pattern_mismatch":
        message = _ALLOWED[fault["ctx"]["pattern"]]
    if not fault["loc"]:
        return f"settings: {message}"
    name = str(fault["loc"][0])
    if name in given:
        source = f"flag --{name.replace('_', '-')}"
    elif f"{ENV_PREFIX}{name.upper()}" in os.environ or name not in in_file:
        source = f"environment variable {ENV_PREFIX}{name.upper()}"
    else:
        source = f"file {config}"
    return f"setting {name} ({source}): {fault['input']!r} is not allowed: {message}"
