"""Objects that the API server must refuse, with the words that its answer must contain.

`wanted` are fragments of one line of the answer: the field, the value where a person wrote one, and what is allowed.
`before` is the object as it was, where the fault is the change.
"""

from typing import Any

from tests.api.bad_batch import BATCH_POLICIES
from tests.api.bad_case import Bad
from tests.api.bad_policies import POLICIES
from tests.api.samples import (
    FULL_SERVICE,
    LISTED_POOL,
    OWNED_POOL,
    REMOVED,
    Object,
    changed,
    pool,
    service,
    variant,
)

ENGINE = {"type": "vLLM", "image": "vllm/vllm-openai:v0.32.0"}
BUILT = service(("spec.variants.0.scaleTargetRef", REMOVED), ("spec.variants.0.engine", ENGINE))
ZERO = {"activator": {"url": "http://chat-epp:9090/metrics"}}
TO_ZERO = service(("spec.scaling.minReplicas", 0), ("spec.scaling.scaleToZero", ZERO))
PRICED = pool(("spec.price", {"perGPUHour": "2.50", "currency": "USD"}))
SINCE = changed(PRICED, ("spec.price.effectiveFrom", "2026-12-01T00:00:00Z"))
WINDOW = {"cron": "0 22 * * *", "timeZone": "Europe/Berlin", "duration": "8h", "perGPUHour": "1.25"}
V = "spec.variants[0]"


def _window(key: str, value: Any) -> Object:
    return changed(PRICED, ("spec.price.schedule", [{**WINDOW, key: value}]))


def _cron(line: str) -> Bad:
    wanted = ("spec.price.schedule[0].cron", f'"{line}"', "minute (0-59) hour (0-23) day of month (1-31)")
    return Bad(f"cron line {line!r}", _window("cron", line), wanted)


def _backward(line: str) -> Bad:
    wanted = ("spec.price.schedule[0].cron", f'"{line}"', "must have ranges that go up: for 22-6 write 22-23,0-6")
    return Bad(f"cron line with a range that goes back, {line!r}", _window("cron", line), wanted)


def _until(text: str) -> Bad:
    wanted = ("spec.scaling.pause.until", "must be a moment since 1970 as RFC 3339, such as 2026-12-24T18:00:00Z")
    return Bad(f"paused until {text!r}", service(("spec.scaling.pause", {"until": text})), wanted)


def _zone(name: str) -> Bad:
    wanted = ("spec.price.schedule[0].timeZone", f'"{name}"', "such as UTC or Europe/Berlin")
    return Bad(f"time zone {name!r}", _window("timeZone", name), wanted)


def _money(text: str, *allowed: str) -> Bad:
    wanted = ("spec.price.perGPUHour", f'"{text}"', *allowed)
    return Bad(f"price of {text!r}", changed(PRICED, ("spec.price.perGPUHour", text)), wanted)


def _ttft(text: str, *allowed: str) -> Bad:
    wanted = ("spec.objectives.timeToFirstToken", f'"{text}"', *allowed)
    return Bad(f"time to first token of {text!r}", service(("spec.objectives.timeToFirstToken", text)), wanted)


def _attainment(text: str, *allowed: str) -> Bad:
    wanted = ("spec.objectives.attainment", f'"{text}"', *allowed)
    return Bad(f"attainment of {text!r}", service(("spec.objectives.attainment", text)), wanted)


def _span(text: str, allowed: str) -> Bad:
    wanted = ("spec.objectives.window", f'"{text}"', allowed)
    return Bad(f"span of {text!r}", service(("spec.objectives.window", text)), wanted)


def _pool_name(name: str) -> Bad:
    wanted = (f"{V}.pool", f'"{name}"', "must be lower-case letters, digits, - and .")
    return Bad(f"pool name {name!r}", service(("spec.variants.0.pool", name)), wanted)


def _url(url: str) -> Bad:
    wanted = ("spec.scaling.scaleToZero.activator.url", f'"{url}"', "must be a URL with http or https and a host")
    return Bad(f"activator URL {url!r}", changed(TO_ZERO, ("spec.scaling.scaleToZero.activator.url", url)), wanted)


OFFER = {"currency": "USD", "perMillionInputTokens": "0.15", "perMillionOutputTokens": "0.60"}


def _offer(key: str, value: Any, *allowed: str) -> Bad:
    offer = {name: each for name, each in {**OFFER, key: value}.items() if each is not REMOVED}
    shown = () if value is REMOVED else (f'"{value}"',)
    name = f"an API's {key} of {'nothing' if value is REMOVED else repr(value)}"
    return Bad(name, service(("spec.alternative", offer)), (f"spec.alternative.{key}", *shown, *allowed))


_ACTIVATOR = "spec.scaling.scaleToZero.activator"

SERVICES = (
    # objectives
    _ttft("0s", "must be a duration from 1ms to 1h, such as 500ms"),
    _ttft("2h", "must be a duration from 1ms to 1h, such as 500ms"),
    _ttft("-1s", "must be a duration from 1ms to 1h, such as 500ms"),
    _ttft("+1s", "must be a duration from 1ms to 1h, such as 500ms or 2s"),
    _ttft("1 second", "must be a duration from 1ms to 1h, such as 500ms or 2s"),
    _ttft("1", "must be a duration from 1ms to 1h, such as 500ms or 2s"),
    _ttft("", "must be a duration from 1ms to 1h, such as 500ms or 2s"),
    Bad(
        "time to first token as a number",
        service(("spec.objectives.timeToFirstToken", 1)),
        ("spec.objectives.timeToFirstToken", "must be of type string", "integer"),
    ),
    Bad(
        "inter-token latency of 0",
        service(("spec.objectives.interTokenLatency", "0ms")),
        ("spec.objectives.interTokenLatency", '"0ms"', "must be a duration from 1ms to 1m"),
    ),
    Bad(
        "inter-token latency in a sign that Go reads and people mistype",
        service(("spec.objectives.interTokenLatency", "+50ms")),
        ("spec.objectives.interTokenLatency", '"+50ms"', "must be a duration from 1ms to 1m, such as 50ms or 0.1s"),
    ),
    _attainment("101", "must be a percentage above 0 and at most 99.999", "such as 99 or 99.9"),
    _attainment("100", "must be a percentage above 0 and at most 99.999"),
    _attainment("99.99999", "must be a percentage above 0 and at most 99.999"),
    _attainment("0", "must be a percentage above 0 and at most 99.999"),
    _attainment("99%", "must be a percentage above 0 and at most 99.999 as a decimal string without a percent sign"),
    _attainment("99.9%", "must be a percentage above 0 and at most 99.999 as a decimal string without a percent sign"),
    _attainment("+99", "must be a percentage above 0 and at most 99.999 as a decimal string without a percent sign"),
    _span("5m", "must be a duration from 10m to 720h"),
    _span("721h", "must be a duration from 10m to 720h"),
    _span("1d", "must be a duration from 10m to 720h, such as 24h or 30m"),
    _span("+24h", "must be a duration from 10m to 720h, such as 24h or 30m"),
    Bad(
        "attainment as a float",
        service(("spec.objectives.attainment", 99.9)),
        ("spec.objectives.attainment", "must be of type string", "number"),
    ),
    # the model and the mode
    Bad("no model", service(("spec.model", REMOVED)), ("spec.model", "Required value")),
    Bad(
        "model name with a space",
        service(("spec.model.name", "llama 3")),
        ("spec.model.name", '"llama 3"', "must be a model name: letters, digits"),
    ),
    Bad(
        "parameters without a unit",
        service(("spec.model.parameters", "8")),
        ("spec.model.parameters", '"8"', "in millions (M) or billions (B), in capitals, such as 500M or 70B"),
    ),
    *(
        Bad(
            f"a model of {text} weights",
            service(("spec.model.parameters", text)),
            ("spec.model.parameters", f'"{text}"', "must be a number of weights above 0", "such as 500M or 70B"),
        )
        for text in ("0B", "0M", "0.0B", "8b", "70", "1.5T", "")
    ),
    Bad("unknown mode", service(("spec.mode", "On")), ("spec.mode", '"On"', '"Off", "Recommend", "Auto"')),
    Bad(
        "priority above the range",
        service(("spec.priority", 1001)),
        ("spec.priority", "1001", "less than or equal to 1000"),
    ),
    Bad(
        "priority as a float",
        service(("spec.priority", 1.5)),
        ("spec.priority", "must be of type integer", "number"),
    ),
    # names
    _pool_name("H100"),
    _pool_name("h100_spot"),
    _pool_name("-h100"),
    _pool_name(""),
    Bad(
        "pool name of 300 characters",
        service(("spec.variants.0.pool", "p" * 300)),
        (f"{V}.pool", "may not be more than 253 bytes"),
    ),
    Bad(
        "variant name of 300 characters",
        service(("spec.variants.0.name", "v" * 300)),
        (f"{V}.name", "may not be more than 40 bytes"),
    ),
    Bad(
        "variant name that starts with a digit",
        service(("spec.variants.0.name", "8b")),
        (f"{V}.name", '"8b"', "starting with a letter"),
    ),
    Bad(
        "service name of 64 characters, which cannot be a label",
        service(("metadata.name", "s" * 64)),
        ("metadata.name", "must be at most 63 characters", "s" * 64),
    ),
    Bad(
        "service name that no Service can have, with an engine block",
        changed(BUILT, ("metadata.name", "8b.chat")),
        ("metadata.name", "must start with a letter and contain no dot", "8b.chat"),
    ),
    # variants
    Bad("no variants", service(("spec.variants", [])), ("spec.variants", "should have at least 1 item")),
    Bad(
        "10,000 variants",
        service(("spec.variants", [{"name": f"v{index}", "pool": "h100"} for index in range(10_000)])),
        ("spec.variants", "10000", "must have at most 16 items"),
    ),
    Bad(
        "two variants of one name",
        service(("spec.variants.1", {**variant("other"), "name": "h100"})),
        ("spec.variants[1]", "Duplicate value", '"name":"h100"'),
    ),
    Bad(
        "two variants on one target",
        service(("spec.variants.1", {**variant("h100"), "name": "again"})),
        ("spec.variants", '["h100", "again"] have the same', "each scaleTargetRef belongs to one variant"),
    ),
    Bad(
        "both target and engine",
        service(("spec.variants.0.engine", ENGINE)),
        (V, "variant h100 has both of scaleTargetRef", "give exactly one"),
    ),
    Bad(
        "neither target nor engine",
        service(("spec.variants.0.scaleTargetRef", REMOVED)),
        (V, "variant h100 has neither of scaleTargetRef", "give exactly one"),
    ),
    Bad(
        "variant's minimum above its maximum",
        service(("spec.variants.0.minReplicas", 5), ("spec.variants.0.maxReplicas", 4)),
        (f"{V}.minReplicas", "minReplicas 5 of variant h100 must be at most its maxReplicas 4"),
    ),
    Bad(
        "variant's maximum below 0",
        service(("spec.variants.0.maxReplicas", -1)),
        (f"{V}.maxReplicas", "-1", "greater than or equal to 0"),
    ),
    Bad(
        "a stand-in that always runs",
        service(("spec.variants.1", {**variant("small"), "degraded": True, "minReplicas": 2})),
        ("spec.variants[1].minReplicas", "degraded variant small needs minReplicas 0", "got 2"),
    ),
    Bad(
        "stand-ins for nothing",
        service(("spec.variants.0.degraded", True), ("spec.variants.1", {**variant("small"), "degraded": True})),
        ("spec.variants", "needs a variant that is not degraded", 'all of ["h100", "small"] are'),
    ),
    Bad(
        "degraded by half",
        service(("spec.variants.0.degraded", "half")),
        (f"{V}.degraded", "must be of type boolean"),
    ),
    Bad(
        "variants' minimums above the service's maximum",
        service(("spec.variants.0.minReplicas", 9), ("spec.scaling.maxReplicas", 8)),
        ("spec.variants", "must add up to at most scaling.maxReplicas 8; got 9"),
    ),
    Bad(
        "variants' maximums below the service's minimum",
        service(("spec.variants.0.maxReplicas", 2), ("spec.scaling.minReplicas", 3)),
        ("spec.variants", "must add up to at least scaling.minReplicas 3; got 2"),
    ),
    Bad(
        "no GPU at all",
        service(("spec.variants.0.gpusPerReplica", 0)),
        (f"{V}.gpusPerReplica", "0", "greater than or equal to 1"),
    ),
    Bad(
        "target's API version is not one",
        service(("spec.variants.0.scaleTargetRef.apiVersion", "apps-v1")),
        (f"{V}.scaleTargetRef.apiVersion", '"apps-v1"', "must be an API version such as v1, apps/v1"),
    ),
    Bad(
        "target's kind in lower case",
        service(("spec.variants.0.scaleTargetRef.kind", "deployment")),
        (f"{V}.scaleTargetRef.kind", '"deployment"', "must be a kind such as Deployment"),
    ),
    Bad(
        "target's name is not one",
        service(("spec.variants.0.scaleTargetRef.name", "Chat")),
        (f"{V}.scaleTargetRef.name", '"Chat"', "must be lower-case letters"),
    ),
    Bad(
        "capacity of nothing",
        service(("spec.variants.0.capacity", {"requestsPerSecond": "0", "inputTokens": 1, "outputTokens": 1})),
        (f"{V}.capacity.requestsPerSecond", '"0"', "must be a decimal string, such as 4.5, above 0"),
    ),
    Bad(
        "capacity as a float",
        service(("spec.variants.0.capacity", {"requestsPerSecond": 4.5, "inputTokens": 1, "outputTokens": 1})),
        (f"{V}.capacity.requestsPerSecond", "must be of type string"),
    ),
    Bad(
        "capacity with a sign",
        service(("spec.variants.0.capacity", {"requestsPerSecond": "+4.5", "inputTokens": 1, "outputTokens": 1})),
        (f"{V}.capacity.requestsPerSecond", '"+4.5"', "must be a decimal string, such as 4.5, above 0"),
    ),
    # alternative
    *(
        _offer(key, text, "must be a decimal string, such as 0.15 or 2.50, above 0 and at most 100000")
        for key in ("perMillionInputTokens", "perMillionOutputTokens")
        for text in ("0", "-1", "1e3", "0,15", "100000.1", "$0.15", "")
    ),
    _offer("perMillionOutputTokens", REMOVED, "Required value"),
    _offer("currency", "usd", "must be the three capital letters of an ISO 4217 currency, such as USD"),
    _offer("currency", "US", "should be at least 3 chars"),
    Bad(
        "an API's price as a float",
        service(("spec.alternative", {**OFFER, "perMillionInputTokens": 0.15})),
        ("spec.alternative.perMillionInputTokens", "must be of type string"),
    ),
    # engine
    Bad(
        "unknown engine",
        changed(BUILT, ("spec.variants.0.engine.type", "llama.cpp")),
        (f"{V}.engine.type", '"llama.cpp"', '"vLLM", "TensorRTLLM", "SGLang"'),
    ),
    Bad(
        "image with a space",
        changed(BUILT, ("spec.variants.0.engine.image", "vllm latest")),
        (f"{V}.engine.image", '"vllm latest"', "must be an image reference without spaces"),
    ),
    Bad(
        "port 0",
        changed(BUILT, ("spec.variants.0.engine.port", 0)),
        (f"{V}.engine.port", "0", "greater than or equal to 1"),
    ),
    Bad(
        "environment variable with a space",
        changed(BUILT, ("spec.variants.0.engine.env", [{"name": "LOG LEVEL", "value": "info"}])),
        (f"{V}.engine.env[0].name", '"LOG LEVEL"', "must be letters, digits"),
    ),
    Bad(
        "an unknown deletion policy",
        changed(BUILT, ("spec.variants.0.engine.deletionPolicy", "Keep")),
        (f"{V}.engine.deletionPolicy", '"Keep"', '"Orphan", "Delete"'),
    ),
    Bad(
        "pod label that is not one",
        changed(BUILT, ("spec.variants.0.engine.podTemplate.metadata.labels", {"team": "a b"})),
        (f"{V}.engine.podTemplate.metadata.labels[team]", '"a b"', "must be a label value"),
    ),
    Bad(
        "pod label with a key that is not one",
        changed(BUILT, ("spec.variants.0.engine.podTemplate.metadata.labels", {"my team": "a"})),
        (f"{V}.engine.podTemplate.metadata.labels", '["my team"]', "each key must be a label name"),
    ),
    Bad(
        "pod annotation with a key that is not one",
        changed(BUILT, ("spec.variants.0.engine.podTemplate.metadata.annotations", {"my note": "a"})),
        (f"{V}.engine.podTemplate.metadata.annotations", '["my note"]', "each key must be a label name"),
    ),
    Bad(
        "a variant changes from target to engine",
        BUILT,
        (V, "variant h100 cannot change from scaleTargetRef", "add a variant of another name"),
        before=service(),
    ),
    Bad(
        "a variant changes its engine",
        changed(BUILT, ("spec.variants.0.engine.type", "SGLang")),
        (f"{V}.engine.type", "cannot change from vLLM to SGLang", "add a variant of another name"),
        before=BUILT,
    ),
    # scaling
    Bad(
        "minimum above maximum",
        service(("spec.scaling", {"minReplicas": 5, "maxReplicas": 4})),
        ("spec.scaling.minReplicas", "minReplicas 5 must be at most maxReplicas 4"),
    ),
    Bad(
        "minimum below 0",
        changed(TO_ZERO, ("spec.scaling.minReplicas", -1)),
        ("spec.scaling.minReplicas", "minReplicas -1 forbids scaleToZero", "write minReplicas 0"),
    ),
    Bad(
        "minimum below 0 without scale to zero",
        service(("spec.scaling.minReplicas", -1)),
        ("spec.scaling.minReplicas", "-1", "must be at least 1"),
    ),
    Bad(
        "minimum 0 without scale to zero",
        service(("spec.scaling.minReplicas", 0)),
        ("spec.scaling.minReplicas", "minReplicas 0: 0 needs scaleToZero", "at least 1"),
    ),
    Bad(
        "scale to zero with a minimum of 1",
        changed(TO_ZERO, ("spec.scaling.minReplicas", 1)),
        ("spec.scaling.minReplicas", "minReplicas 1 forbids scaleToZero", "write minReplicas 0"),
    ),
    Bad(
        "scale to zero with a floor in a variant",
        changed(TO_ZERO, ("spec.variants.0.minReplicas", 1)),
        ("spec.variants", 'scaling.scaleToZero needs minReplicas 0 in every variant; it is more in ["h100"]'),
    ),
    Bad(
        "a Background service that could not go to zero",
        service(("spec.serviceClass", "Background")),
        ("spec.serviceClass", "serviceClass Background needs scaling.scaleToZero", "activator tells the queue"),
    ),
    Bad(
        "a class that there is not",
        changed(TO_ZERO, ("spec.serviceClass", "Batch")),
        ("spec.serviceClass", '"Batch"', '"Interactive", "Background"'),
    ),
    Bad(
        "scale to zero without an activator",
        changed(TO_ZERO, ("spec.scaling.scaleToZero.activator", REMOVED)),
        ("spec.scaling.scaleToZero.activator", "Required value"),
    ),
    Bad(
        "down delay below 0",
        service(("spec.scaling.down", {"delay": "-5m"})),
        ("spec.scaling.down.delay", '"-5m"', "must be a duration from 0s to 24h"),
    ),
    Bad(
        "down delay of two days",
        service(("spec.scaling.down", {"delay": "48h"})),
        ("spec.scaling.down.delay", '"48h"', "must be a duration from 0s to 24h"),
    ),
    Bad(
        "down delay in days",
        service(("spec.scaling.down", {"delay": "1d"})),
        ("spec.scaling.down.delay", '"1d"', "must be a duration from 0s to 24h, such as 30s or 1h30m"),
    ),
    Bad(
        "down delay with a sign",
        service(("spec.scaling.down", {"delay": "+5m"})),
        ("spec.scaling.down.delay", '"+5m"', "must be a duration from 0s to 24h, such as 30s or 1h30m"),
    ),
    Bad(
        "up delay of two hours",
        service(("spec.scaling.up", {"delay": "2h"})),
        ("spec.scaling.up.delay", '"2h"', "must be a duration from 0s to 1h"),
    ),
    Bad(
        "up delay with a sign",
        service(("spec.scaling.up", {"delay": "+1m"})),
        ("spec.scaling.up.delay", '"+1m"', "must be a duration from 0s to 1h, such as 30s or 1m30s"),
    ),
    Bad(
        "a rate of nothing",
        service(("spec.scaling.up", {"maxPerMinute": 0})),
        ("spec.scaling.up.maxPerMinute", "0", "greater than or equal to 1"),
    ),
    Bad(
        "to zero after no time at all",
        changed(TO_ZERO, ("spec.scaling.scaleToZero.after", "0s")),
        ("spec.scaling.scaleToZero.after", '"0s"', "must be a duration from 1s to 168h"),
    ),
    Bad(
        "to zero after a time with a sign",
        changed(TO_ZERO, ("spec.scaling.scaleToZero.after", "+10m")),
        ("spec.scaling.scaleToZero.after", '"+10m"', "must be a duration from 1s to 168h, such as 10m or 1h30m"),
    ),
    _url("chat-epp:9090/metrics"),
    _url("ftp://chat-epp/metrics"),
    _url("http:///metrics"),
    _url("/metrics"),
    Bad(
        "activator metric that is not a metric",
        changed(TO_ZERO, (f"{_ACTIVATOR}.metrics", ["queue-size"])),
        (f"{_ACTIVATOR}.metrics[0]", '"queue-size"', "must be the name of a Prometheus metric"),
    ),
    Bad(
        "activator label that is not a label",
        changed(TO_ZERO, (f"{_ACTIVATOR}.labels", {"my-name": "chat"})),
        (f"{_ACTIVATOR}.labels", '["my-name"]', "each key must be the name of a Prometheus label"),
    ),
    Bad(
        "activator label with an empty key",
        changed(TO_ZERO, (f"{_ACTIVATOR}.labels", {"": "chat"})),
        (f"{_ACTIVATOR}.labels", '[""]', "each key must be the name of a Prometheus label"),
    ),
    # pause
    Bad(
        "unknown direction",
        service(("spec.scaling.pause", {"direction": "Sideways"})),
        ("spec.scaling.pause.direction", '"Sideways"', '"All", "Up", "Down"'),
    ),
    Bad(
        "paused at a number in one direction",
        service(("spec.scaling.pause", {"direction": "Up", "replicas": 3})),
        ("spec.scaling.pause.replicas", "replicas 3 needs direction All; got Up"),
    ),
    Bad(
        "paused above the maximum",
        service(("spec.scaling", {"maxReplicas": 4, "pause": {"replicas": 5}})),
        ("spec.scaling.pause.replicas", "pause.replicas 5 must be from minReplicas 1 to maxReplicas 4"),
    ),
    Bad(
        "paused below the minimum",
        service(("spec.scaling", {"minReplicas": 2, "pause": {"replicas": 1}})),
        ("spec.scaling.pause.replicas", "pause.replicas 1 must be from minReplicas 2 to maxReplicas 100"),
    ),
    _until("0000-01-01T00:00:00Z"),
    _until("1969-12-31T23:59:59Z"),
    Bad(
        "paused until no moment",
        service(("spec.scaling.pause", {"until": "tomorrow"})),
        ("spec.scaling.pause.until", '"tomorrow"', "must be of type date-time"),
    ),
    Bad(
        "pause with a reason of 300 characters",
        service(("spec.scaling.pause", {"reason": "r" * 300})),
        ("spec.scaling.pause.reason", "may not be more than 256 bytes"),
    ),
    Bad("no spec", changed(FULL_SERVICE, ("spec", REMOVED)), ("spec", "Required value")),
)

POOLS = (
    _money("-2.50", "must be a decimal string, such as 0.50 or 2.50, above 0 and at most 10000"),
    _money("0", "must be a decimal string, such as 0.50 or 2.50, above 0 and at most 10000"),
    _money("10001", "must be a decimal string, such as 0.50 or 2.50, above 0 and at most 10000"),
    _money("2,50", "must be a decimal string, such as 0.50 or 2.50, above 0"),
    _money(".5", "must be a decimal string, such as 0.50 or 2.50, above 0"),
    _money("$2.50", "must be a decimal string, such as 0.50 or 2.50, above 0"),
    _money("+2.50", "must be a decimal string, such as 0.50 or 2.50, above 0"),
    Bad(
        "price as a float",
        changed(PRICED, ("spec.price.perGPUHour", 2.5)),
        ("spec.price.perGPUHour", "must be of type string", "number"),
    ),
    Bad(
        "price without a currency",
        changed(PRICED, ("spec.price.currency", REMOVED)),
        ("spec.price.currency", "Required value"),
    ),
    Bad(
        "currency in lower case",
        changed(PRICED, ("spec.price.currency", "usd")),
        ("spec.price.currency", '"usd"', "must be the three capital letters of an ISO 4217 currency, such as USD"),
    ),
    Bad(
        "currency of two letters",
        changed(PRICED, ("spec.price.currency", "US")),
        ("spec.price.currency", '"US"', "should be at least 3 chars"),
    ),
    Bad(
        "currency changes",
        changed(PRICED, ("spec.price.currency", "EUR")),
        ("spec.price.currency", "cannot change from USD to EUR", "make another pool"),
        before=PRICED,
    ),
    Bad(
        "a price that holds from a year without a century",
        changed(PRICED, ("spec.price.effectiveFrom", "0026-12-01T00:00:00Z")),
        ("spec.price.effectiveFrom", "must be a moment since 1970 as RFC 3339, such as 2026-12-24T18:00:00Z"),
    ),
    Bad(
        "a price that holds from a day",
        changed(PRICED, ("spec.price.effectiveFrom", "2026-12-01")),
        ("spec.price.effectiveFrom", '"2026-12-01"', "must be of type date-time"),
    ),
    Bad(
        "from when on a table's price holds",
        changed(LISTED_POOL, ("spec.price.effectiveFrom", "2026-12-01T00:00:00Z")),
        ("spec.price.effectiveFrom", "is for prices that are said here; rows of a table have an effective_from"),
    ),
    Bad(
        "a new price with the moment of the one before",
        changed(SINCE, ("spec.price.perGPUHour", "3.00")),
        ("spec.price.effectiveFrom", "is that of the price before: remove it", "or say from when on it does"),
        before=SINCE,
    ),
    Bad(
        "a new schedule with the moment of the price before",
        changed(SINCE, ("spec.price.schedule", [WINDOW])),
        ("spec.price.effectiveFrom", "is that of the price before: remove it"),
        before=SINCE,
    ),
    _backward("* 22-6 * * *"),
    _backward("5-1 * * * *"),
    _backward("0 0 * * 6-1"),
    _backward("0 0 * * 7-1"),
    _backward("0 0 * * 1-0"),
    _backward("0 0,20-2/2 * * *"),
    _cron("61 * * * *"),
    _cron("* 24 * * *"),
    _cron("* * 0 * *"),
    _cron("* * * 13 *"),
    _cron("* * * * 8"),
    _cron("* * * *"),
    _cron("* * * * * *"),
    _cron("@daily"),
    _cron("0 22 * * mon,"),
    _cron("*/0 * * * *"),
    _cron(""),
    _zone("Europe Berlin"),
    _zone("+02:00"),
    _zone("/etc/localtime"),
    _zone("Europe/../Berlin"),
    _zone(""),
    Bad(
        "window of no length",
        _window("duration", "0s"),
        ("spec.price.schedule[0].duration", '"0s"', "must be a duration from 1m to 168h, such as 8h or 1h30m"),
    ),
    Bad(
        "window with a sign in its length",
        _window("duration", "+8h"),
        ("spec.price.schedule[0].duration", '"+8h"', "must be a duration from 1m to 168h, such as 8h or 1h30m"),
    ),
    Bad(
        "window with a negative price",
        _window("perGPUHour", "-1"),
        ("spec.price.schedule[0].perGPUHour", '"-1"', "must be a decimal string, such as 0.50 or 2.50, above 0"),
    ),
    Bad(
        "window that is free",
        _window("perGPUHour", "0"),
        ("spec.price.schedule[0].perGPUHour", '"0"', "must be a decimal string, such as 0.50 or 2.50, above 0"),
    ),
    Bad(
        "window with a sign in its price",
        _window("perGPUHour", "+1"),
        ("spec.price.schedule[0].perGPUHour", '"+1"', "must be a decimal string, such as 0.50 or 2.50, above 0"),
    ),
    Bad(
        "10,000 windows",
        changed(PRICED, ("spec.price.schedule", [WINDOW] * 10_000)),
        ("spec.price.schedule", "10000", "must have at most 24 items"),
    ),
    Bad(
        "two ways to say a price",
        changed(PRICED, ("spec.price.free", "a grant")),
        ("spec.price", "needs exactly one of perGPUHour, onPrem, source and free"),
    ),
    Bad(
        "a price that says no price",
        pool(("spec.price", {"currency": "USD"})),
        ("spec.price", "needs exactly one of perGPUHour, onPrem, source and free"),
    ),
    Bad(
        "a schedule beside GPUs that were bought",
        changed(OWNED_POOL, ("spec.price.schedule", [WINDOW])),
        ("spec.price.schedule", "is for perGPUHour; the electricity of onPrem has a schedule of its own"),
    ),
    Bad(
        "a row of a table without its name",
        changed(LISTED_POOL, ("spec.price.source", {"type": "Table"})),
        ("spec.price.source.item", "is needed with type Table"),
    ),
    Bad(
        "a building that draws less than its servers",
        changed(OWNED_POOL, ("spec.price.onPrem.powerUsageEffectiveness", "0.9")),
        ("spec.price.onPrem.powerUsageEffectiveness", '"0.9"', "must be a decimal string from 1 to 5, such as 1.3"),
    ),
    Bad(
        "GPUs that are written off at once",
        changed(OWNED_POOL, ("spec.price.onPrem.amortisationYears", "0")),
        ("spec.price.onPrem.amortisationYears", '"0"', "such as 4 or 3.5, above 0 and at most 30"),
    ),
    Bad(
        "capital that is negative",
        changed(OWNED_POOL, ("spec.price.onPrem.capitalPerGPU", "-1")),
        ("spec.price.onPrem.capitalPerGPU", '"-1"', "such as 32000, above 0 and at most 10000000"),
    ),
    Bad(
        "electricity for nothing",
        changed(OWNED_POOL, ("spec.price.onPrem.electricity.perKWh", "0")),
        ("spec.price.onPrem.electricity.perKWh", '"0"', "such as 0.21, above 0 and at most 100"),
    ),
    Bad(
        "no node selector",
        pool(("spec.nodeSelector", REMOVED)),
        ("spec.nodeSelector", "Required value"),
    ),
    Bad(
        "empty node selector, which would select every node",
        pool(("spec.nodeSelector", {})),
        ("spec.nodeSelector", "should have at least 1 properties"),
    ),
    Bad(
        "node selector with a value that is no label value",
        pool(("spec.nodeSelector", {"pool": "h100 spot"})),
        ("spec.nodeSelector[pool]", '"h100 spot"', "must be a label value"),
    ),
    Bad(
        "node selector with a key that is no label name",
        pool(("spec.nodeSelector", {"my pool": "h100", "fine": "x"})),
        ("spec.nodeSelector", '["my pool"]', "each key must be a label name"),
    ),
    Bad(
        "resource without a domain",
        pool(("spec.resource", "gpu")),
        ("spec.resource", '"gpu"', "such as nvidia.com/gpu or amd.com/gpu"),
    ),
    Bad(
        "resource changes",
        pool(("spec.resource", "amd.com/gpu")),
        ("spec.resource", "cannot change from nvidia.com/gpu to amd.com/gpu", "make another pool"),
        before=pool(),
    ),
    Bad(
        "accelerator with a space",
        pool(("spec.accelerator", "H100 80GB")),
        ("spec.accelerator", '"H100 80GB"', "must be the name of a GPU such as H100-80GB"),
    ),
    Bad(
        "unknown provisioning",
        pool(("spec.provisioning", "Magic")),
        ("spec.provisioning", '"Magic"', '"Static", "Autoscaled"'),
    ),
    Bad(
        "unknown capacity type",
        pool(("spec.capacityType", "Free")),
        ("spec.capacityType", '"Free"', '"OnDemand", "Spot", "Reserved", "OnPrem"'),
    ),
    Bad(
        "unknown billing",
        pool(("spec.billing", "Hour")),
        ("spec.billing", '"Hour"', '"Node", "Pod"'),
    ),
    Bad(
        "limit below 0",
        pool(("spec.limits", {"maxGPUs": -1})),
        ("spec.limits.maxGPUs", "-1", "greater than or equal to 0"),
    ),
    Bad(
        "lead time in words",
        pool(("spec.nodeLeadTime", "four minutes")),
        ("spec.nodeLeadTime", '"four minutes"', "must be a duration from 0s to 24h, such as 90s or 4m"),
    ),
    Bad(
        "lead time of two days",
        pool(("spec.nodeLeadTime", "48h")),
        ("spec.nodeLeadTime", '"48h"', "must be a duration from 0s to 24h"),
    ),
    Bad(
        "lead time with a sign",
        pool(("spec.nodeLeadTime", "+4m")),
        ("spec.nodeLeadTime", '"+4m"', "must be a duration from 0s to 24h, such as 90s or 4m"),
    ),
    Bad(
        "toleration without a key",
        pool(("spec.tolerations", [{"effect": "NoSchedule"}])),
        ("spec.tolerations[0].key", "Required value"),
    ),
    Bad(
        "toleration with a key that is none",
        pool(("spec.tolerations", [{"key": "a b"}])),
        ("spec.tolerations[0].key", '"a b"', "must be a qualified name such as nvidia.com/gpu"),
    ),
    Bad(
        "toleration with a value that is none",
        pool(("spec.tolerations", [{"key": "a", "value": "a b"}])),
        ("spec.tolerations[0].value", '"a b"', "must be a label value"),
    ),
    Bad(
        "interruption taint with an unknown effect",
        pool(("spec.interruptionTaints", [{"key": "a", "effect": "Evict"}])),
        ("spec.interruptionTaints[0].effect", '"Evict"', '"NoSchedule", "PreferNoSchedule", "NoExecute"'),
    ),
    Bad(
        "interruption taint with a key that is none",
        pool(("spec.interruptionTaints", [{"key": "a b"}])),
        ("spec.interruptionTaints[0].key", '"a b"', "must be a qualified name such as nvidia.com/gpu"),
    ),
    Bad(
        "interruption taint with a value that is none",
        pool(("spec.interruptionTaints", [{"key": "a", "value": "a b"}])),
        ("spec.interruptionTaints[0].value", '"a b"', "must be a label value"),
    ),
)

BAD = (*SERVICES, *POOLS, *POLICIES, *BATCH_POLICIES)
