"""How much of the best rival's distance to the clairvoyant Ebbtide closes, case by case."""

from collections.abc import Sequence

from ebbtide.bench.results import PolicyResult, Results
from ebbtide.bench.run import EBBTIDE

FAR = 0.05  # over the clairvoyant: below that a small difference would be divided by a small one
HALF = 0.5


def best_rival(results: Results) -> PolicyResult | None:
    """The cheapest rival, fleets of one size too, that reaches the target; None: nobody does, or no clairvoyant."""
    reaching = [one for one in results.policies if one.is_rival and one.over_clairvoyant is not None]
    return min(reaching, key=lambda one: (one.over_clairvoyant or 0.0, one.name), default=None)


def share_closed(results: Results) -> float | None:
    """From a rival at 1.28 times the clairvoyant to 1.14: half. Below 0 where Ebbtide is dearer than that rival.

    None where Ebbtide or all rivals miss the target, or where the best one is within 5 % of the clairvoyant.
    """
    rival, own = best_rival(results), results.policy(EBBTIDE)
    if rival is None or rival.over_clairvoyant is None or own is None or own.over_clairvoyant is None:
        return None
    distance = rival.over_clairvoyant - 1.0
    return (rival.over_clairvoyant - own.over_clairvoyant) / distance if distance > FAR else None


def section(shown: Sequence[tuple[str, Results]]) -> str:
    """A row for each case (name, results) whose best rival is more than 5 % above the clairvoyant."""
    rows, counted = [], []
    for name, results in shown:
        rival, own = best_rival(results), results.policy(EBBTIDE)
        if rival is None or rival.over_clairvoyant is None or own is None or rival.over_clairvoyant - 1.0 <= FAR:
            continue
        share = share_closed(results)
        cells = "misses the target | "
        if share is not None and own.over_clairvoyant is not None:
            cells = f"{own.over_clairvoyant - 1.0:.1%} | {share:+.0%}"
            counted.append(share)
        rows.append(f"| {name} | {rival.name} | {rival.over_clairvoyant - 1.0:.1%} | {cells} |")
    if not rows:
        return ""
    half = sum(share >= HALF for share in counted)
    words = (
        f"Cases in which the best rival, tuned in hindsight, is more than {FAR:.0%} above the clairvoyant. Closed is "
        "the share of that distance that Ebbtide saves, below zero where it is dearer than that rival. At least half "
        f"of it in {half} of {len(rows)}."
    )
    head = "| case | best rival | above the clairvoyant | Ebbtide | closed |\n|---|---|---:|---:|---:|\n"
    return f"## Distance to the clairvoyant\n\n{words}\n\n" + head + "\n".join(rows)
