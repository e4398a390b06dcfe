"""The CustomResourceDefinitions of all kinds, generated from the models: `python -m ebbtide.api.crd crds/`.

Decides names, scope, printer columns and subresources. Must never be edited around: `crds/*.yaml` are build results,
and a test compares them.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from ebbtide.api.batch import BatchPolicy
from ebbtide.api.policy import CostPolicy
from ebbtide.api.pool import GPUPool
from ebbtide.api.schema import Schema, structural_schema
from ebbtide.api.service import InferenceService

GROUP = "ebbtide.dev"
VERSION = "v1alpha1"

_HEADER = "# Generated from operator/ebbtide/api by `make crds`. Change the models, not this file.\n"
_READY = '.status.conditions[?(@.type=="Ready")].status'

# name, type, JSONPath; a leading ~ marks those that only `-o wide` shows
_SERVICE_COLUMNS = (
    ("Mode", "string", ".spec.mode", "How far Ebbtide may go: Off, Recommend or Auto."),
    ("Ready", "string", _READY, "Whether everything that a decision needs is there."),
    ("Now", "integer", ".status.replicas.observed", "Replicas that the targets ask for."),
    (
        "Want",
        "integer",
        ".status.replicas.wanted",
        "Replicas that the load calls for, before minReplicas, delays, rates and pause.",
    ),
    (
        "Allowed",
        "integer",
        ".status.replicas.allowed",
        "What minReplicas, delays, rates and pause make of Want: fewer or more.",
    ),
    ("Reason", "string", ".status.reason", "What decided."),
    ("$/H", "string", ".status.spendPerHour", "What the replicas cost an hour."),
    ("~Currency", "string", ".status.currency", "Currency of the money."),
    ("~Month", "string", ".status.cost.monthToDate.amount", "What the service has cost this month of UTC."),
    (
        "~$/1M-In",
        "string",
        ".status.cost.allocation.perMillionInputTokens",
        "What a million prompt tokens cost, idle capacity included.",
    ),
    (
        "~$/1M-Out",
        "string",
        ".status.cost.allocation.perMillionOutputTokens",
        "What a million output tokens cost, idle capacity included.",
    ),
    ("~Idle", "string", ".status.cost.idleShare", "Share of the cost that is paid for capacity nobody asks for."),
    ("~Serving", "integer", ".status.replicas.ready", "Replicas that are ready to serve."),
    ("~Load", "string", ".status.demand.requestsPerSecond", "Requests that arrive per second."),
    ("~Forecast", "string", ".status.forecast.expected", "Requests per second expected when a new replica is ready."),
    ("~TTFT", "string", ".spec.objectives.timeToFirstToken", "Objective for the time to the first token."),
    ("~ITL", "string", ".spec.objectives.interTokenLatency", "Objective for the time between tokens."),
    (
        "~Limited-By",
        "string",
        ".status.variants[*].limitedByPolicy",
        "CostPolicy that limits the first variant that one limits; empty: none is.",
    ),
    ("~Message", "string", ".status.message", "What decided, with the numbers."),
    ("Age", "date", ".metadata.creationTimestamp", "Time since creation."),
)
_POOL_COLUMNS = (
    ("Accelerator", "string", ".spec.accelerator", "Name of the GPU."),
    ("Type", "string", ".spec.capacityType", "How the GPUs are bought."),
    ("Nodes", "integer", ".status.nodes", "Nodes in the pool."),
    ("GPUs", "integer", ".status.gpus.total", "GPUs of the ready nodes."),
    ("Free", "integer", ".status.gpus.free", "GPUs that are left."),
    ("Price", "string", ".status.pricePerGPUHour", "Price of one GPU for an hour at present."),
    ("Ready", "string", _READY, "Whether the pool can be planned with."),
    ("~Currency", "string", ".status.currency", "Currency of the price."),
    ("~Provisioning", "string", ".spec.provisioning", "Whether nodes come when pods wait for them."),
    ("~Max", "integer", ".spec.limits.maxGPUs", "Most GPUs that are planned with."),
    ("~Lead", "integer", ".status.leadTimeSeconds", "Median time in which nodes came, in seconds."),
    ("~Resource", "string", ".spec.resource", "Extended resource that counts as one GPU."),
    ("Age", "date", ".metadata.creationTimestamp", "Time since creation."),
)
_DAY, _MONTH = '.status.periods[?(@.period=="Day")]', '.status.periods[?(@.period=="Month")]'
_POLICY_COLUMNS = (
    ("Ready", "string", _READY, "Whether the ceilings can be held."),
    ("Services", "integer", ".status.services", "Inference services that fall under it."),
    ("$/H", "string", ".status.ratePerHour", "What is spent an hour now."),
    ("Max/H", "string", ".spec.ceilings.perHour", "What may be spent an hour."),
    ("Day", "string", f"{_DAY}.spent", "What was spent this day."),
    ("Max/Day", "string", ".spec.ceilings.perDay", "What may be spent a day."),
    ("Month", "string", f"{_MONTH}.spent", "What was spent this month."),
    ("Max/Month", "string", ".spec.ceilings.perMonth", "What may be spent a month."),
    ("Reason", "string", ".status.reason", "Why it is ready, or is not."),
    ("~Currency", "string", ".spec.currency", "Currency of the money."),
    ("~Wanted", "string", ".status.wantedPerHour", "What the services would cost an hour without the policy."),
    ("~Fixed", "string", ".status.uncontrollablePerHour", "What of the rate may not be reduced."),
    ("~Overrun", "string", ".status.overrunCause", "Why a ceiling is crossed, or will be; empty: none is."),
    ("~Message", "string", ".status.message", "Why, with the numbers."),
    ("Age", "date", ".metadata.creationTimestamp", "Time since creation."),
)
_BATCH_COLUMNS = (
    ("Strategy", "string", ".spec.strategy", "When Jobs may run: Window, IdleOrWindow or Cheapest."),
    ("Ready", "string", _READY, "Whether Jobs can be planned."),
    ("Queued", "integer", ".status.queued", "Jobs that wait for their first start."),
    ("Running", "integer", ".status.running", "Jobs that run."),
    ("Stopped", "integer", ".status.stopped", "Jobs that gave their GPUs back and will be started again."),
    ("GPUs", "integer", ".status.gpus", "GPUs that Jobs hold."),
    ("Missed", "integer", ".status.missed", "Jobs whose deadline passed before they ended."),
    # a moment to come; of type date it would be shown as an age, which kubectl cannot do of the future
    ("Next-Start", "string", ".status.nextStart", "When the next Job is planned to start."),
    ("Saved", "string", ".status.saved.amount", "Money saved against running each Job at once."),
    ("Reason", "string", ".status.reason", "Why it is ready, or is not."),
    ("~Currency", "string", ".status.saved.currency", "Currency of the money."),
    ("~Suspended", "integer", ".status.suspendedByUsers", "Jobs that people suspended."),
    ("~Next-Window", "string", ".status.nextWindow", "When the next window opens."),
    ("~Max-GPUs", "integer", ".spec.maxGPUs", "Most GPUs that Jobs may hold at once."),
    ("~Priority", "integer", ".spec.priority", "Which Jobs go first where not all can run."),
    ("~Paused", "boolean", ".spec.paused", "Whether Jobs are neither started nor stopped."),
    ("~Message", "string", ".status.message", "Why, with the numbers."),
    ("Age", "date", ".metadata.creationTimestamp", "Time since creation."),
)


def crd_documents() -> dict[str, dict[str, Any]]:
    """File name -> CustomResourceDefinition, as plain data."""
    return {
        f"{GROUP}_inferenceservices.yaml": _crd(InferenceService, "infs", "Namespaced", _SERVICE_COLUMNS),
        f"{GROUP}_gpupools.yaml": _crd(GPUPool, "gpool", "Cluster", _POOL_COLUMNS),
        f"{GROUP}_costpolicies.yaml": _crd(CostPolicy, "costp", "Cluster", _POLICY_COLUMNS),
        f"{GROUP}_batchpolicies.yaml": _crd(BatchPolicy, "batchp", "Namespaced", _BATCH_COLUMNS),
    }


def _crd(
    model: type[BaseModel], short: str, scope: str, columns: Sequence[tuple[str, str, str, str]]
) -> dict[str, Any]:
    kind = model.__name__
    plural = f"{kind.lower()}s".replace("ys", "ies")
    names = {
        "kind": kind,
        "listKind": f"{kind}List",
        "plural": plural,
        "singular": kind.lower(),
        "shortNames": [short],
        "categories": ["ebbtide"],
    }
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": _root_schema(model)},
        "subresources": {"status": {}},
        "additionalPrinterColumns": [_column(*column) for column in columns],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {"group": GROUP, "names": names, "scope": scope, "versions": [version]},
    }


def _root_schema(model: type[BaseModel]) -> Schema:
    """The model's schema with the three fields that every Kubernetes object has."""
    schema = structural_schema(model)
    usual = {
        "apiVersion": {"description": f"Always {GROUP}/{VERSION}.", "type": "string"},
        "kind": {"description": f"Always {model.__name__}.", "type": "string"},
        "metadata": {"type": "object"},  # the server knows it, and refuses a description of ours
    }
    return {**schema, "properties": {**usual, **schema["properties"]}}


def _column(name: str, kind: str, path: str, description: str) -> dict[str, Any]:
    column = {"name": name.removeprefix("~"), "type": kind, "jsonPath": path, "description": description}
    return {**column, "priority": 1} if name.startswith("~") else column


def render(document: dict[str, Any]) -> str:
    """One CRD as the YAML text of its file."""
    return _HEADER + yaml.safe_dump(document, sort_keys=False, width=120, allow_unicode=True)


def main(arguments: Sequence[str]) -> None:
    """Write every CRD into the folder named by the one argument."""
    if len(arguments) != 1:
        raise SystemExit("usage: python -m ebbtide.api.crd FOLDER")
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    for name, document in crd_documents().items():
        (folder / name).write_text(render(document), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
