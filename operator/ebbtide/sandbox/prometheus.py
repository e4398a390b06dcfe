"""The configuration of the sandbox's Prometheus: it finds pods exactly as a production one does.

Pods are found by `kubernetes_sd_configs` and the `prometheus.io/scrape|port|path` annotations, and each series carries
the labels `namespace`, `pod` and `node`. Other programs of the sandbox (gateway, operator) are static targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_META = "__meta_kubernetes_pod"
_ANNOTATION = f"{_META}_annotation_prometheus_io"


@dataclass(frozen=True)
class ScrapeTarget:
    """A program outside the cluster: job label, `host:port` and path."""

    job: str
    address: str
    path: str = "/metrics"


def write_config(path: Path, kubeconfig: Path, interval_s: float, targets: Sequence[ScrapeTarget] = ()) -> Path:
    """Write `prometheus.yml`; `interval_s` is the time between two scrapes of a target."""
    # Prometheus takes whole milliseconds and refuses a timeout longer than the interval
    interval = f"{round(interval_s * 1000)}ms"
    document = {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "scrape_configs": [_pods(kubeconfig), *(_static(target) for target in targets)],
    }
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def _pods(kubeconfig: Path) -> dict[str, Any]:
    rules: list[dict[str, Any]] = [
        {"source_labels": [f"{_ANNOTATION}_scrape"], "regex": "true", "action": "keep"},
        {"source_labels": [f"{_META}_phase"], "regex": "Running", "action": "keep"},
        {"source_labels": [f"{_ANNOTATION}_path"], "regex": "(.+)", "target_label": "__metrics_path__"},
        {
            "source_labels": [f"{_META}_ip", f"{_ANNOTATION}_port"],
            "regex": r"([^;]+);(\d+)",
            "replacement": "$1:$2",
            "target_label": "__address__",
        },
        {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
        {"source_labels": [f"{_META}_name"], "target_label": "pod"},
        {"source_labels": [f"{_META}_node_name"], "target_label": "node"},
    ]
    discovery = {"role": "pod", "kubeconfig_file": str(kubeconfig)}
    return {"job_name": "pods", "kubernetes_sd_configs": [discovery], "relabel_configs": rules}


def _static(target: ScrapeTarget) -> dict[str, Any]:
    static = [{"targets": [target.address]}]
    return {"job_name": target.job, "metrics_path": target.path, "static_configs": static}
