"""Whether one more replica is worth starting, and whether the last one is worth keeping: one rule, no cool-down.

For each replica a small backward recursion over the next three horizons compares three states: on (it costs and saves
misses), off (it saves nothing), starting (it costs and saves nothing for one start-up). A start must pay its start-up
back within what is foreseen; what runs stays while it saves more than it costs, or would soon be started again.

Example: a start-up of 4 steps, 12 steps ahead, cost 1 a step. Savings of 1.6 a step: for the 8 steps that it is on they
are worth 12.8 after a cost of 12, so it is started; at 1.1 it is not, and one that runs is kept.
"""

from collections.abc import Callable, Sequence

from ebbtide.core.parts import ALL, Parts

STEPS = 12  # of a quarter of a start-up each
START_STEPS = 4
FLAT = (1.0,) * STEPS


def path(nearest: float, main: float, far: float, *, horizons_s: Sequence[float], step_s: float) -> list[float]:
    """Values at the middle of each step, between those at the three horizons; flat before them and after."""
    first_s, second_s, third_s = horizons_s
    values = []
    for index in range(STEPS):
        at_s = (index + 0.5) * step_s
        if at_s <= first_s:
            values.append(nearest)
        elif at_s <= second_s:
            values.append(nearest + (main - nearest) * (at_s - first_s) / max(1e-9, second_s - first_s))
        elif at_s <= third_s:
            values.append(main + (far - main) * (at_s - second_s) / max(1e-9, third_s - second_s))
        else:
            values.append(far)
    return values


def states(savings: Sequence[float], costs: Sequence[float] = FLAT) -> tuple[float, float, float]:
    """(on, off, starting): the least that is to be paid and missed from now on, in costs of one replica and step.

    `costs` are those of a step beside the present one, where the price changes by the hour.
    """
    ahead = len(savings)
    total, paid = [0.0], [0.0]
    for saving, cost in zip(savings, costs, strict=True):
        total.append(total[-1] + saving)
        paid.append(paid[-1] + cost)
    on, off, starting = [0.0] * (ahead + 1), [0.0] * (ahead + 1), [0.0] * (ahead + 1)
    for step in range(ahead - 1, -1, -1):
        ready = min(ahead, step + START_STEPS)
        starting[step] = paid[ready] - paid[step] + total[ready] - total[step] + on[ready]
        on[step] = costs[step] + min(on[step + 1], off[step + 1])
        later = starting[step + 1] if step + 1 < ahead else off[step + 1]
        off[step] = savings[step] + min(off[step + 1], later)
    return on[0], off[0], starting[0]


def wanted(
    runs: int,
    full: int,
    savings: Callable[[int], Sequence[float]],
    most: int,
    parts: Parts = ALL,
    costs: Sequence[float] = FLAT,
) -> int:
    """How many are worth having: at least `runs` if one more is worth starting, else down to the last worth keeping.

    `savings(n)` are those of the n-th replica by step, in costs of a replica, and fall as n grows. The search begins at
    `full`, the replicas that the expected load just fills, and goes up or down from there.
    """

    def starts(n: int) -> bool:
        _, off, starting = states(savings(n), costs)
        return starting < off

    def keeps(n: int) -> bool:
        on, off, _ = states(savings(n), costs)
        return on <= off

    def pays(n: int) -> bool:
        return savings(n)[START_STEPS] >= costs[START_STEPS]  # once it is ready

    if not parts.keep:
        top = min(full, most)
        return _beyond(pays, top, most) if pays(top) else _highest(pays, 0, top)
    top = max(runs, min(full, most))
    top = _highest(starts, runs, top) if top > runs and not starts(top) else _beyond(starts, top, most)
    return top if top > runs else _highest(keeps, 0, runs + 1)


def _beyond(holds: Callable[[int], bool], known: int, most: int) -> int:
    """The largest n from `known` to `most` up to which it holds, by steps that double and then halve."""
    step = 1
    while known < most and holds(min(most, known + step)):
        known = min(most, known + step)
        step *= 2
    while step > 1:
        step //= 2
        if known + step <= most and holds(known + step):
            known += step
    return known


def _highest(holds: Callable[[int], bool], least: int, above: int) -> int:
    """The largest n below `above` for which it holds, looked for from there downwards; `least` where none does."""
    step, fails = 1, above
    while fails - step > least and not holds(fails - step):
        fails -= step
        step *= 2
    return _beyond(holds, max(least, fails - step), fails - 1)
