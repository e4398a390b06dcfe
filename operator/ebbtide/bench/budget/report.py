"""Writes report.md from what a month of budgets found. Words and tables only, nothing that results.json lacks."""

from collections.abc import Sequence

from ebbtide.bench.budget.results import Results, Spent, UnderCeiling
from ebbtide.model.spec import CeilingKind
from ebbtide.units import format_duration

ATTAINED_PICTURE, MONEY_PICTURE = "budget.svg", "budget-money.svg"
_BASIS = """\
Time is virtual, decisions are real: each cycle builds a snapshot of what an operator would see (pods, engine metrics of
the last minute, declared capacity), counts what was spent with Ebbtide's own accounts, and asks Ebbtide's own `plan`.
The engine is a fluid: n ready replicas answer up to n x capacity inside the objective, what exceeds that is refused at
the door and counts as missed; nobody tries again, no queue is left behind. A pod is billed from the order until it is
gone. What periods cost is counted by a clerk who is told of each pod's first and last second and shares no code with
the accounts."""
_WHO = """\
- **ebbtide** is under a CostPolicy with that ceiling, `floor: KeepMin`, one replica a service at least.
- **GPU quota**, **alert only** and **hard stop** run what Ebbtide wants without a ceiling. The quota is the largest
  constant number of GPUs that keeps every period under its ceiling, found with hindsight, which nobody has; its GPUs
  go to one replica each, then by priority. The hard stop turns everything off from the cycle in which the period's
  money is spent. Alert only limits nothing.
- **clairvoyant** knows all demand and buys single replica-minutes without start-ups, drains or minimums: a bound. By
  priority: all of the highest first, within it the minutes with most requests. By value: most requests x priority, so
  that no spender attains more by the weighted measure."""
_RIVALS = ("GPU quota", "hard stop")
_COLUMNS = """\
Overrun: what periods cost beyond their ceilings, summed, rounded up to cents. Used: share of binding ceilings that was
spent; a period binds where it would have cost over 1 % more without. Weighted: attainment, each request counted by its
service's priority. Lost per 1000: points of weighted attainment lost for each 1000 USD saved beside no ceiling."""


def report(results: Results) -> str:
    """The page, in Markdown; pictures are files beside it."""
    parts = [
        f"# {results.days} days of budgets",
        _setup(results),
        _BASIS,
        _verdict(results),
        *(_section(results, kind) for kind in (CeilingKind.DAY, CeilingKind.MONTH)),
        f"![attainment against the bill]({ATTAINED_PICTURE})",
        _money(results),
        "## Who spends\n\n" + _WHO,
        _COLUMNS,
        _how(results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _setup(results: Results) -> str:
    rows = [
        "| service | priority | load | requests | capacity of a replica | replicas needed, mean | most |",
        "|---|---:|---|---:|---:|---:|---:|",
    ]
    rows += [
        f"| {one.name} | {one.priority} | {one.source} | {one.requests:,} | {one.capacity_per_s:.1f}/s "
        f"| {one.needs:.2f} | {one.needs_most:.1f} |"
        for one in results.loads
    ]
    free = results.unconstrained
    attained = ", ".join(f"{name} {share:.2%}" for name, share in free.attainment.items())
    words = (
        f"{results.days} days after {results.lead_in_days} days of running without a ceiling; a decision every "
        f"{format_duration(results.cycle_s)}; replicas of one GPU at {results.price_per_gpu_hour} USD an hour, ready "
        f"{format_duration(results.startup_s)} after the order and gone {format_duration(results.exit_s)} after they "
        f"are let go; seed {results.seed}. Without a ceiling: {free.cost} USD, {free.weighted:.2%} attained weighted "
        f"({attained})."
    )
    return "\n".join(rows) + "\n\n" + words


def _verdict(results: Results) -> str:
    """What Ebbtide's runs come to, its losses to rivals first of all."""
    own = [(under, one) for under in results.ceilings for one in under.spenders if one.spender == "ebbtide"]
    over = sum(one.overrun for _, one in own)
    used = [one.used for _, one in own if one.used is not None]
    lines = [f"- Overruns of Ebbtide, {len(own)} runs together: **{over:.2f} USD**."]
    if used:
        lines.append(f"- Of ceilings that bind it used {min(used):.2%} to {max(used):.2%}.")
    binding = [under for under in results.ceilings if under.binding]
    if binding:
        lines += [_counted(binding, setting) for setting in dict.fromkeys(one.setting for _, one in own)]
    for under in binding:
        lines += _beaten(under)
    return "## In short\n\n" + "\n".join(lines)


def _counted(binding: Sequence[UnderCeiling], setting: str) -> str:
    """Under how many ceilings that bind each rival attains less, whatever it overran."""
    wins: dict[str, int] = {}
    for under in binding:
        own = next(one for one in under.spenders if (one.spender, one.setting) == ("ebbtide", setting))
        for one in under.spenders:
            if one.spender in _RIVALS:
                wins[one.spender] = wins.get(one.spender, 0) + (own.weighted > one.weighted)
    said = ", ".join(f"than the {name} under {count}" for name, count in wins.items())
    return f"- With {setting}, of {len(binding)} ceilings that bind, it attains more {said}."


def _beaten(under: UnderCeiling) -> list[str]:
    """Rivals within the ceiling that attain more than Ebbtide's best."""
    own = max((one for one in under.spenders if one.spender == "ebbtide"), key=lambda one: one.weighted)
    better = [
        f"{one.spender} {one.setting}".strip() + f" attains {one.weighted:.2%} for {one.cost} USD"
        for one in under.spenders
        if one.spender not in ("ebbtide", "clairvoyant") and not one.overrun and one.weighted > own.weighted + 0.0005
    ]
    if not better:
        return []
    ours = f"Ebbtide ({own.setting}) attains {own.weighted:.2%} for {own.cost} USD"
    return [f"- {_name(under)}: {', '.join(better)}, where {ours}."]


def _name(under: UnderCeiling) -> str:
    ceiling = under.ceiling
    return f"{ceiling.share:.0%} a {ceiling.kind.value.lower()} ({ceiling.amount} USD)"


def _section(results: Results, kind: CeilingKind) -> str:
    title = "A ceiling a day" if kind is CeilingKind.DAY else "A ceiling a month"
    names = [load.name for load in results.loads]
    tables = [
        f"**{_name(under)}**, binding in {under.binding} of {under.periods}:\n\n{_table(under, names)}"
        for under in results.ceilings
        if under.ceiling.kind is kind
    ]
    return "\n\n".join([f"## {title}", *tables])


def _table(under: UnderCeiling, names: list[str]) -> str:
    rows = [
        f"| spender | setting | bill | overrun | periods over | used | weighted | {' | '.join(names)} | worst day "
        "| lost per 1000 |",
        "|---|---|---:|---:|---:|---:|---:|" + "---:|" * len(names) + "---:|---:|",
    ]
    rows += [_row(one, names) for one in under.spenders]
    return "\n".join(rows)


def _row(one: Spent, names: list[str]) -> str:
    cells = [
        f"**{one.spender}**" if one.spender == "ebbtide" else one.spender,
        one.setting,
        f"{one.cost}",
        f"{one.overrun}",
        f"{one.periods_over}",
        "" if one.used is None else f"{one.used:.2%}",
        f"{one.weighted:.2%}",
        *(f"{one.attainment[name]:.1%}" for name in names),
        f"{one.worst_day:.1%}",
        "" if one.lost_per_1000 is None else f"{one.lost_per_1000:.2f}",
    ]
    return "| " + " | ".join(cells) + " |"


def _money(results: Results) -> str:
    monthly = any(under.binding for under in results.ceilings if under.ceiling.kind is CeilingKind.MONTH)
    return f"![how the money goes over the month]({MONEY_PICTURE})" if monthly else ""


def _how(results: Results) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    return f"## Again\n\n```\n{results.command}\n```\n\n{versions}; runs of {format_duration(results.wall_s)} in all."
