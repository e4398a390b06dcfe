"""The scalar types that the API's fields are made of: durations, money, names, each with its bound and its check.

Decides which texts are well formed, and with which words a wrong one is refused: what a person writes is checked by a
CEL rule, whose message says what is allowed and quotes the value. A `pattern` would show a regular expression, so that
in the CRDs only what Ebbtide itself writes into a status has one. A rule looks at the form before
it reads the text as a number, because "type conversion error" is nothing that a person can act on.

Must never hold a number type: money and rates are decimal strings, because a float does not survive a round trip.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo

RULES = "x-kubernetes-validations"
MOST_REPLICAS = 10000
MOST_ATTAINMENT = "99.999"  # percent; of more, no number of requests that is ever seen could tell

# 999999h999999h is below Go's longest duration (2562047h), so that `duration()` in a rule cannot overflow
DURATION_PATTERN = r"^([0-9]{1,6}(\.[0-9]{1,3})?(ms|s|m|h))+$"
DECIMAL_PATTERN = r"^[0-9]+(\.[0-9]+)?$"
MOST_MONEY, MOST_CEILING, MOST_ELECTRICITY, MOST_CAPITAL = "10000", "1000000000", "100", "10000000"
SIGNED_PATTERN = r"^-?[0-9]+(\.[0-9]+)?$"
_DNS_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_DNS_SUBDOMAIN = rf"^{_DNS_LABEL}([.]{_DNS_LABEL})*$"
_LABEL_NAME = "[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
_QUALIFIED = rf"^({_DNS_LABEL}([.]{_DNS_LABEL})*/)?{_LABEL_NAME}$"
QUALIFIED_WITH_DOMAIN = rf"^{_DNS_LABEL}([.]{_DNS_LABEL})*/{_LABEL_NAME}$"


class ApiModel(BaseModel):
    """Base of the API's objects: camelCase outside, immutable inside; fields of a newer version are ignored.

    Ignoring them is what lets an older operator run beside objects of a newer one after a rollback.
    """

    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, extra="ignore", frozen=True, use_attribute_docstrings=True
    )


def rule(expression: str, message: str, *, say: str = "", field: str = "") -> dict[str, str]:
    """One CEL rule. `message` says what is allowed; `say` is a CEL string with the values in it, shown instead.

    `field` points the error at the field to change (`.minReplicas`) where the rule stands on its parent.
    """
    parts = {"rule": expression, "message": message, "messageExpression": say, "fieldPath": field}
    return {key: value for key, value in parts.items() if value}


def filled(text: str, *values: str) -> str:
    """A CEL string for `say`: `text` with its %s (strings, lists) and %d (integers) replaced by the CEL `values`.

    `+ string(n)` would do the same, but the API server estimates its cost as if a number could have a million digits.
    """
    return f"{cel_text(text)}.format([{', '.join(values)}])"


def check(expression: str, allowed: str) -> dict[str, str]:
    """A rule on one string: `check("self == 'a'", "must be a")` refuses b with `must be a; got "b"`."""
    return rule(expression, allowed, say=filled(allowed + '; got "%s"', "self"))


def cel_text(text: str) -> str:
    """`text` as a CEL string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def rules(*each: dict[str, str]) -> dict[str, Any]:
    """`json_schema_extra` that carries CEL rules."""
    return {RULES: list(each)}


def duration(least: str, most: str, such_as: str) -> FieldInfo:
    """A Go duration from `least` to `most`, both included; `such_as` are two of them."""
    in_range = f"duration(self) >= duration('{least}') && duration(self) <= duration('{most}')"
    return quantity(DURATION_PATTERN, 16, f"must be a duration from {least} to {most}, such as {such_as}", in_range)


def decimal(above: str, most: str, meaning: str) -> FieldInfo:
    """A decimal string above `above` and at most `most`; `meaning` completes "must be a decimal string, ..."."""
    in_range = f"double(self) > {float(above)} && double(self) <= {float(most)}"
    allowed = f"must be a decimal string, {meaning}, above {above} and at most {most}"
    return quantity(DECIMAL_PATTERN, 16, allowed, in_range)


def quantity(form: str, max_length: int, allowed: str, in_range: str) -> FieldInfo:
    """A text that is read as a number: of the form of a regular expression and, by a CEL expression, in range.

    The operator checks the form once more as it reads (`pattern`), for objects that were stored before the rule was.
    """
    expression = f"{matches(form)} && {in_range}"
    field: FieldInfo = Field(max_length=max_length, pattern=form, json_schema_extra=rules(check(expression, allowed)))
    return field


def matches(form: str) -> str:
    """The CEL expression for "this string is of the form"."""
    return f"self.matches({cel_text(form)})"


def constant(why: str) -> dict[str, str]:
    """A rule on a string that cannot change once it is set; `why` says what would break and what to do instead."""
    return rule(
        "self == oldSelf", f"cannot change; {why}", say=filled(f"cannot change from %s to %s; {why}", "oldSelf", "self")
    )


def matching(expression: str, max_length: int, allowed: str, *more: dict[str, str]) -> FieldInfo:
    """A string that matches the regular expression, refused in words: `allowed; got "..."`; `more` rules may follow."""
    extra = rules(check(matches(expression), allowed), *more)
    field: FieldInfo = Field(max_length=max_length, json_schema_extra=extra)
    return field


def keyed_by(*keys: str, extra: dict[str, Any] | None = None) -> dict[str, Any]:
    """`json_schema_extra` of a list whose items are told apart by `keys`: merged by them, duplicates refused."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys), **(extra or {})}


def unique(extra: dict[str, Any] | None = None) -> dict[str, Any]:
    """`json_schema_extra` of a list of scalars without duplicates."""
    return {"x-kubernetes-list-type": "set", **(extra or {})}


_CRON_FIELDS = (
    "[0-5]?[0-9]",  # minute
    "([01]?[0-9]|2[0-3])",  # hour
    "(0?[1-9]|[12][0-9]|3[01])",  # day of month
    "(0?[1-9]|1[0-2]|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)",  # month
    "([0-7]|sun|mon|tue|wed|thu|fri|sat)",  # day of week
)


def _cron_field(value: str) -> str:
    """What one field may be: `*`, `*/5`, `1`, `1-5`, `1-5/2`, and lists of these by comma."""
    item = rf"([*]|{value}(-{value})?)(/[1-9][0-9]?)?"
    return rf"{item}(,{item})*"


CRON_PATTERN = "(?i)^" + " ".join(_cron_field(value) for value in _CRON_FIELDS) + "$"


def _backward_ranges() -> str:
    """A range of numbers that goes back: 22-6 by its tens, 5-1 and 19-12 by the digit after equal tens.

    Written out because CEL that takes lines apart costs a hundred times what the API server allows. Ranges of names,
    such as fri-mon, are left to a condition of the pool.
    """
    tens = [f"{ten}[0-9]-[0-{ten - 1}]?[0-9]" for ten in range(1, 6)]
    digits = [
        f"{ten}(" + "|".join(f"{one}-{ten}[0-{one - 1}]" for one in range(1, 10)) + ")"
        for ten in ("0?", *map(str, range(1, 6)))
    ]
    return rf"\b({'|'.join([*tens, *digits])})\b"


Decimal = Annotated[str, Field(max_length=16, pattern=DECIMAL_PATTERN)]
"""A decimal string that the operator writes into a status."""

Money = Annotated[str, decimal("0", MOST_MONEY, "such as 0.50 or 2.50")]
"""An amount of money for one GPU-hour, next to its currency."""

Ceiling = Annotated[str, decimal("0", MOST_CEILING, "such as 500 or 1200.50")]
"""What may be spent, next to its currency."""

TokenPrice = Annotated[str, decimal("0", "100000", "such as 0.15 or 2.50")]
"""An amount of money for a million tokens, next to its currency."""

Amount = Annotated[str, Field(max_length=24, pattern=DECIMAL_PATTERN)]
"""An amount of money that the operator writes into a status, next to its currency."""

Worth = Annotated[str, decimal("0", MOST_CEILING, "such as 1.08")]
"""What one unit of a currency is worth in another."""

Electricity = Annotated[str, decimal("0", MOST_ELECTRICITY, "such as 0.21")]
"""An amount of money for a kWh, next to its currency."""

Capital = Annotated[str, decimal("0", MOST_CAPITAL, "such as 32000")]
"""What something cost that is written off over years, next to its currency."""

Rate = Annotated[str, decimal("0", "100000", "such as 4.5")]
"""Requests a second."""

Percent = Annotated[
    str,
    quantity(
        DECIMAL_PATTERN,
        8,
        f"must be a percentage above 0 and at most {MOST_ATTAINMENT} as a decimal string without a percent sign, "
        "such as 99 or 99.9",
        f"double(self) > 0.0 && double(self) <= {MOST_ATTAINMENT}",
    ),
]

# a moment with an offset that no clock has, or of the year 0, would be stored and could not be read
_SINCE_1970 = rule(
    "self >= timestamp('1970-01-01T00:00:00Z')",
    "must be a moment since 1970 as RFC 3339, such as 2026-12-24T18:00:00Z",
)
Moment = Annotated[str, Field(max_length=40, json_schema_extra={"format": "date-time", **rules(_SINCE_1970)})]
"""A moment that people write."""

ObjectName = Annotated[
    str,
    matching(
        _DNS_SUBDOMAIN,
        253,
        "must be lower-case letters, digits, - and ., starting and ending with a letter or digit",
    ),
]
NamespaceName = Annotated[
    str,
    matching(
        f"^{_DNS_LABEL}$",
        63,
        "must be the name of a namespace: lower-case letters, digits and -, starting and ending with a letter or digit",
    ),
]
VariantName = Annotated[
    str,
    matching(
        "^[a-z]([-a-z0-9]*[a-z0-9])?$",
        40,
        "must be lower-case letters, digits and -, starting with a letter and ending with a letter or digit",
    ),
]
Cron = Annotated[
    str,
    matching(
        CRON_PATTERN,
        100,
        "must be five fields: minute (0-59) hour (0-23) day of month (1-31) month (1-12) day of week (0-7), "
        "each *, a number, a range a-b, a list a,b or a step /n, such as 0 22 * * 1-5",
        check(
            f"!self.matches({cel_text(_backward_ranges())})", "must have ranges that go up: for 22-6 write 22-23,0-6"
        ),
    ),
]
TimeZone = Annotated[
    str,
    matching(
        "^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}$",
        64,
        "must be a name of the IANA time zone database, such as UTC or Europe/Berlin",
    ),
]
HttpUrl = Annotated[
    str,
    Field(
        max_length=2048,
        json_schema_extra=rules(
            check(
                "isURL(self) && url(self).getScheme() in ['http', 'https'] && url(self).getHostname() != ''",
                "must be a URL with http or https and a host, such as http://chat-epp.team-a:9090/metrics",
            )
        ),
    ),
]
MetricName = Annotated[
    str,
    matching("^[a-zA-Z_:][a-zA-Z0-9_:]*$", 200, "must be the name of a Prometheus metric: letters, digits, _ and :"),
]
QualifiedName = Annotated[
    str,
    matching(_QUALIFIED, 317, "must be a qualified name such as nvidia.com/gpu: an optional DNS prefix, / and a name"),
]
LabelValue = Annotated[
    str,
    matching(
        rf"^({_LABEL_NAME})?$",
        63,
        "must be a label value: letters, digits, -, _ and ., starting and ending with a letter or digit",
    ),
]


def keys_matching(expression: str, max_length: int, allowed: str) -> dict[str, Any]:
    """`json_schema_extra` that checks every key of a map: a schema itself cannot."""
    test = f"k.matches({cel_text(expression)}) && k.size() <= {max_length}"
    return rules(rule(f"self.all(k, {test})", allowed, say=filled(f"{allowed}; got %s", f"self.filter(k, !({test}))")))


LABEL_KEYS = keys_matching(
    _QUALIFIED,
    317,
    "each key must be a label name such as nvidia.com/gpu.product: an optional DNS prefix, / and a name",
)
METRIC_LABEL_KEYS = keys_matching(
    "^[a-zA-Z_][a-zA-Z0-9_]*$", 100, "each key must be the name of a Prometheus label: letters, digits and _"
)
