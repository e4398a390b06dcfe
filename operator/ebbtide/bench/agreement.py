"""Tells how far two simulators agree on the same traffic at the same settings, and what follows from it.

Nobody's setting is searched again in the other simulator, so no cost at the target is known there. A bill alone or an
attainment alone ranks unlike things: who pays less may have missed more. So both orders are told, and then the pairs in
which one is cheaper and attains no less, where whoever meets the target attains enough.
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from statistics import median
from typing import NamedTuple

from ebbtide.bench.results import Agreement, Compared, Results

A_TIE = 0.005  # of the cost: less is no difference between two replays


class Pairs(NamedTuple):
    """Pairs of names, the better one here first: as here, the other way round there, open in one of the two."""

    alike: tuple[tuple[str, str], ...]
    opposite: tuple[tuple[str, str], ...]
    undecided: tuple[tuple[str, str], ...]


def pairs(policies: Sequence[Compared], target: float) -> Pairs:
    """Every pair once, by cost and attainment together.

    At a target of 99 %, 10.00 @ 99.1 % is better than 11.00 @ 99.9 %, for both attain enough; beside 9.00 @ 98 %
    it is open.
    """
    found = Pairs((), (), ())
    for first, second in combinations(policies, 2):
        here = _better((first.cost, first.attainment), (second.cost, second.attainment), target)
        there = _better(
            (first.other_cost, first.other_attainment), (second.other_cost, second.other_attainment), target
        )
        names = (second.name, first.name) if here < 0 else (first.name, second.name)
        if here * there > 0:
            found = found._replace(alike=(*found.alike, names))
        elif here * there < 0:
            found = found._replace(opposite=(*found.opposite, names))
        else:
            found = found._replace(undecided=(*found.undecided, names))
    return found


def _better(first: tuple[float, float], second: tuple[float, float], target: float) -> int:
    """1: the first (cost, attainment) is better, -1: the second, 0: neither."""
    (cost, attained), (other_cost, other_attained) = first, second
    cheaper = 0 if abs(cost - other_cost) <= A_TIE * max(cost, other_cost) else 1 if cost < other_cost else -1
    enough, other_enough = min(attained, target), min(other_attained, target)
    closer = (enough > other_enough) - (enough < other_enough)
    return 0 if cheaper * closer < 0 else cheaper or closer


def section(results: Results) -> str:
    """The part of report.md; empty where the other simulator was not asked."""
    found = results.agreement
    if found is None or not found.policies:
        return ""
    parts = [
        f"## The same in simulator `{found.simulator}`",
        f"The same traffic and the same settings: {_differences(found)}.",
        _table(found),
        _orders(found),
        f"{_alike(found)} Both orders are of equal settings, not of equal attainment: who is cheaper there may have "
        "missed more, and settings that were tuned to one target attain so nearly the same here that their order by "
        "attainment is chance in part.",
        _together(found, results.case.replica.attainment),
        _taken_over(found, results.case.replica.attainment),
    ]
    return "\n\n".join(part for part in parts if part)


def sentence(results: Results) -> str:
    """The same in short, for a page of many cases; empty where the other simulator was not asked."""
    found = results.agreement
    if found is None or not found.policies:
        return ""
    target = results.case.replica.attainment
    parts = [_alike(found), _in_short(pairs(found.policies, target)), _taken_over(found, target)]
    words = f"In simulator `{found.simulator}`, at the same settings, {_differences(found)}."
    return " ".join([words, *(part for part in parts if part)])


def _differences(found: Agreement) -> str:
    costs = [_more(one) for one in found.policies]
    points = [100.0 * (one.other_attainment - one.attainment) for one in found.policies]
    return (
        f"bills differ by {min(costs):+.1%} to {max(costs):+.1%} (median {median(costs):+.1%}) and attainment by "
        f"{min(points):+.2f} to {max(points):+.2f} points (median {median(points):+.2f})"
    )


def _table(found: Agreement) -> str:
    rows = [
        "| policy | setting | cost here | there | more there | attained here | there | points more there |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
        *(
            f"| {one.name} | {one.knob:.4g} | {one.cost:.2f} | {one.other_cost:.2f} | "
            f"{_more(one):+.1%} | {one.attainment:.2%} | "
            f"{one.other_attainment:.2%} | {100 * (one.other_attainment - one.attainment):+.2f} |"
            for one in found.policies
        ),
    ]
    return "\n".join(rows)


def _more(one: Compared) -> float:
    """How much dearer it is there, to a thousandth: no difference has no minus."""
    return round(one.other_cost / one.cost - 1.0, 3) + 0.0 if one.cost else 0.0


def _orders(found: Agreement) -> str:
    columns: tuple[list[str], ...] = (
        _order(found, lambda one: one.cost, "{:.2f}"),
        _order(found, lambda one: one.other_cost, "{:.2f}"),
        _order(found, lambda one: -one.attainment, "{:.2%}"),
        _order(found, lambda one: -one.other_attainment, "{:.2%}"),
    )
    rows = ["| | cheapest first, here | there | highest attainment first, here | there |", "|---:|---|---|---|---|"]
    rows += [f"| {place} | {' | '.join(cells)} |" for place, cells in enumerate(zip(*columns, strict=True), start=1)]
    return "\n".join(rows)


def _order(found: Agreement, rank: Callable[[Compared], float], form: str) -> list[str]:
    return [f"{one.name} {form.format(abs(rank(one)))}" for one in sorted(found.policies, key=rank)]


def _alike(found: Agreement) -> str:
    if found.same_order_by_cost is None or found.same_order_by_attainment is None:
        return ""
    return (
        f"{found.same_order_by_cost:.0%} of the pairs of policies stand in the same order by cost, "
        f"{found.same_order_by_attainment:.0%} by attainment."
    )


def _in_short(judged: Pairs) -> str:
    if not any(judged):
        return ""
    reversed_ = f" (here {_named(judged.opposite)})" if judged.opposite else ""
    return (
        f"By both at once (cheaper and attains no less, the target being enough) {len(judged.alike)} pairs stand "
        f"alike, {len(judged.opposite)} the other way round there{reversed_}, {len(judged.undecided)} open."
    )


def _together(found: Agreement, target: float) -> str:
    judged = pairs(found.policies, target)
    if not any(judged):
        return ""
    lines = [
        "By both at once: one is before another where it is cheaper and attains no less; whoever meets the target "
        "attains enough, and less than half a percent of the cost is no difference.",
        f"- {len(judged.alike)} pairs stand alike: {_named(judged.alike) or 'none'}.",
        f"- {len(judged.opposite)} the other way round there: {_named(judged.opposite)}. Do not rely on what is said "
        "of these here."
        if judged.opposite
        else "- None stands the other way round there.",
        f"- {len(judged.undecided)} are open, because in one of the two the cheaper attains less or both are alike: "
        f"{', '.join(f'{one} and {other}' for one, other in judged.undecided) or 'none'}.",
    ]
    return lines[0] + "\n\n" + "\n".join(lines[1:])


def _named(found: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{better} before {worse}" for better, worse in found)


def _taken_over(found: Agreement, target: float) -> str:
    """What one would get who tuned here and ran there."""
    met = [one for one in found.policies if one.other_attainment >= target]
    short = [f"{one.name} ({one.other_attainment:.2%})" for one in found.policies if one.other_attainment < target]
    if not met:
        return "With these settings nobody meets the target there."
    least = min(one.other_cost for one in met)
    first = " and ".join(one.name for one in met if one.other_cost * (1.0 - A_TIE) <= least)
    cheapest = f"Of those that meet the target there with these settings, {first} cost{'' if ' and ' in first else 's'}"
    return f"{cheapest} least; not met by {', '.join(short)}." if short else f"{cheapest} least; all meet it."
