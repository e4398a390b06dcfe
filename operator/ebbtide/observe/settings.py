"""How the observe layer reaches the outside and how long it trusts what it saw. Plain data; no parsing of flags."""

from dataclasses import dataclass, field
from pathlib import Path

from ebbtide.model.labels import COST_LABELS


@dataclass(frozen=True, slots=True)
class PrometheusSettings:
    """Where PromQL is answered and who we are there. Files are re-read on use, so rotated secrets need no restart.

    `url` empty: there is no Prometheus, and every engine reading is Unknown. `matchers` are added to every selector,
    for example `cluster="prod"` where one store holds several clusters. `replica_labels` tell the copies of a
    Prometheus pair apart.
    """

    url: str = ""
    token_file: Path | None = None
    username: str = ""
    password_file: Path | None = None
    tenant: str = ""
    tenant_header: str = "X-Scope-OrgID"
    ca_file: Path | None = None
    matchers: str = ""
    replica_labels: tuple[str, ...] = ("prometheus_replica", "replica", "prometheus")
    rate_window_s: int = 60  # at least two scrapes must fall into it
    connect_timeout_s: float = 3.0
    query_timeout_s: float = 8.0
    max_age_s: float = 60.0  # an older value is Stale
    forget_s: float = 300.0  # an older value is Unknown


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """Lists and watches. The server ends a watch after `watch_s` and sends a bookmark just before it does.

    Because `silence_s` is longer than `watch_s`, silence always means a dead connection, never an idle kind.
    """

    page_size: int = 500
    watch_s: float = 55.0
    silence_s: float = 65.0
    relist_s: float = 900.0
    backoff_s: float = 0.5
    backoff_max_s: float = 30.0


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Polling of the activators' queues, directly and not through Prometheus, because waking must be quick."""

    poll_s: float = 1.5
    timeout_s: float = 1.0
    max_age_s: float = 10.0  # an older value is Stale
    forget_s: float = 300.0  # an older value is Unknown
    concurrency: int = 32
    max_bytes: int = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ObserveSettings:
    """Everything the observer may be told."""

    prometheus: PrometheusSettings = field(default_factory=PrometheusSettings)
    watch: WatchSettings = field(default_factory=WatchSettings)
    gateway: GatewaySettings = field(default_factory=GatewaySettings)
    price_table: Path | None = None
    cost_labels: tuple[str, ...] = COST_LABELS  # of services: what their cost is put down to
    discovery_ttl_s: float = 60.0  # how long an answer about which kinds exist is believed
