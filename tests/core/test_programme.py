"""Services that pools couple, placed together: as good as trying everything, never over a limit, never to and fro."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ebbtide.core.programme import Choice, Outcome, Party, fits, solve
from ebbtide.model.snapshot import PodPhase, WriteReceipt
from tests.builders import Loop, engine, node, pod, pods, pool, service, settled, snapshot, spec, variant, variant_spec

thorough = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def value(parties: list[Party], chosen: Any) -> float:
    """Money an hour, with what missing weighs."""
    picked = [(party, party.choices[index]) for party, index in zip(parties, chosen, strict=True)]
    return sum(choice.cost + party.penalty(choice.missed) for party, choice in picked)


def tried(parties: list[Party], rooms: list[int]) -> float:
    """The best of all combinations that fit."""
    every = itertools.product(*(range(len(party.choices)) for party in parties))
    return min(value(parties, chosen) for chosen in every if fits(parties, chosen, rooms))


def picked(parties: list[Party], outcome: Outcome) -> list[int]:
    return list(outcome.chosen) if outcome.chosen is not None else [party.now for party in parties]


@st.composite
def mixes(draw: Any, price: tuple[float, ...], most: int) -> tuple[Choice, ...]:
    """Every mix of two or three variants with up to `most` replicas of each, on pools of these prices."""
    shares = [draw(st.floats(0.15, 0.8)) for _ in price]
    running = [draw(st.integers(0, most)) for _ in price]
    gpus = [draw(st.sampled_from([1, 1, 2])) for _ in price]
    startup = draw(st.floats(0.02, 0.3))
    made = []
    for counts in itertools.product(range(most + 1), repeat=len(price)):
        cost = sum(n * p * g for n, p, g in zip(counts, price, gpus, strict=True))
        new = sum(max(0, n - r) * p * g for n, r, p, g in zip(counts, running, price, gpus, strict=True))
        carried = sum(n * share for n, share in zip(counts, shares, strict=True))
        uses = tuple((row, n * g) for row, (n, g) in enumerate(zip(counts, gpus, strict=True)) if n)
        made.append(Choice(counts, cost + startup * new, max(0.0, 1.0 - carried), uses))
    return tuple(made)


@st.composite
def small_cases(draw: Any) -> tuple[list[Party], list[int]]:
    """Two or three services with two or three variants on two or three pools, from empty to roomy."""
    price = tuple(draw(st.lists(st.sampled_from([0.8, 1.6, 2.5, 3.0]), min_size=2, max_size=3)))
    rooms = [draw(st.integers(0, 7)) for _ in price]
    parties = []
    for number in range(draw(st.integers(2, 3))):
        choices = draw(mixes(price, 2 if len(price) == 3 else 3))
        weight = min((choice.cost for choice in choices if choice.missed <= 0.0), default=5.0)
        parties.append(Party(f"ml/s{number}", 0, weight, choices, now=0))
    return parties, rooms


@thorough
@given(small_cases())
def test_it_is_as_good_as_trying_everything(case: tuple[list[Party], list[int]]) -> None:
    parties, rooms = case
    chosen = picked(parties, solve(parties, rooms))
    assert fits(parties, chosen, rooms)
    assert value(parties, chosen) <= 1.01 * tried(parties, rooms) + 1e-9


@thorough
@given(small_cases())
def test_lower_priorities_cost_the_higher_nothing(case: tuple[list[Party], list[int]]) -> None:
    """The first is above the rest: it misses as little as if it were alone, and no more than was there is taken."""
    parties, rooms = case
    parties = [parties[0], *(replace(each, level=1) for each in parties[1:])]
    chosen = picked(parties, solve(parties, rooms))
    assert fits(parties, chosen, rooms)
    (alone,) = picked(parties[:1], solve(parties[:1], rooms))
    assert parties[0].choices[chosen[0]].missed <= parties[0].choices[alone].missed + 1e-6
    rest = [each.choices[index].missed for each, index in zip(parties[1:], chosen[1:], strict=True)]
    left = list(rooms)
    for row, units in parties[0].choices[chosen[0]].uses:
        left[row] -= units
    beside = [replace(each, level=0) for each in parties[1:]]
    best = picked(beside, solve(beside, left))
    assert sum(rest) <= sum(each.choices[n].missed for each, n in zip(beside, best, strict=True)) * 1.01 + 0.02


@thorough
@given(small_cases(), st.integers(0, 2))
def test_it_is_never_worse_than_what_it_would_replace(case: tuple[list[Party], list[int]], above: int) -> None:
    parties, rooms = case
    parties = [replace(each, level=int(n > above)) for n, each in enumerate(parties)]
    outcome = solve(parties, rooms)
    if outcome.chosen is not None:
        before = [party.now for party in parties]
        first = [n for n, each in enumerate(parties) if each.level == 0]
        was, becomes = ([parties[n].choices[which[n]].missed for n in first] for which in (before, outcome.chosen))
        assert sum(becomes) <= sum(was) + 1e-6


@thorough
@given(small_cases())
def test_the_same_question_has_the_same_answer(case: tuple[list[Party], list[int]]) -> None:
    assert solve(*case) == solve(*case)


@thorough
@given(small_cases(), st.floats(0.0, 1.0))
def test_a_mix_that_was_chosen_is_kept(case: tuple[list[Party], list[int]], noise: float) -> None:
    """Fed back twenty times, with prices that vary by less than a start-up costs: it moves once, and never again."""
    parties, rooms = case
    seen = []
    for cycle in range(20):
        wobble = [1.0 + 4e-4 * noise * (-1) ** (cycle + n) for n in range(len(parties))]
        asked = [
            replace(each, choices=tuple(replace(c, cost=c.cost * by) for c in each.choices))
            for each, by in zip(parties, wobble, strict=True)
        ]
        chosen = picked(asked, solve(asked, rooms))
        seen.append(chosen)
        parties = [replace(each, now=index) for each, index in zip(parties, chosen, strict=True)]
    assert all(chosen == seen[0] for chosen in seen)


def party(key: str, *choices: Choice, level: int = 0, weight: float = 4.0, now: int = 0) -> Party:
    return Party(key, level, weight, choices, now)


def mix(cost: float, missed: float = 0.0, **rows: int) -> Choice:
    return Choice((), cost, missed, tuple((int(name[1:]), units) for name, units in rows.items()))


NOTHING = mix(0.0, 1.0)


def test_the_last_gpus_go_to_the_higher_priority_whatever_they_would_save_below() -> None:
    """The lower one would carry all its need of 100 by them, the higher one a tenth of its need of 1."""
    low = party("low", NOTHING, mix(100.0, r0=4), level=1, weight=100.0)
    high = party("high", mix(1.0, 0.5), mix(1.4, 0.4, r0=4), weight=1.0)
    assert solve([high, low], [4]).chosen == (1, 0)


def test_the_higher_priority_goes_to_the_dearer_pool_where_that_carries_the_lower() -> None:
    high = party("high", mix(4.0, r0=4), mix(6.0, r1=4))
    low = party("low", NOTHING, mix(4.0, r0=4), level=1)
    found = solve([high, low], [4, 4])
    assert found.chosen == (1, 1)
    assert (found.carried, found.saved) == (pytest.approx(1.0), pytest.approx(-6.0))


def test_among_equals_what_runs_is_kept_from_one_that_would_use_it_better() -> None:
    holds = party("holds", mix(2.0, 0.5, r0=2), replace(NOTHING, loses=True), weight=4.0)
    grows = party("grows", NOTHING, mix(2.0, r0=2), weight=4.0)
    assert solve([holds, grows], [2]).chosen is None
    above = replace(grows, level=0)
    assert solve([replace(holds, level=1), above], [2]).chosen == (1, 1)


def test_who_cannot_keep_all_that_it_needs_may_still_have_more_than_it_was_left() -> None:
    """Of five it was left with three; the place that another is to leave makes it four, and nobody gives up any."""
    less, more = replace(mix(3.0, 0.4, r0=3), loses=True), replace(mix(4.5, 0.2, r0=3, r1=1), loses=True)
    squeezed, leaves = party("squeezed", less, more, weight=5.0), party("leaves", mix(1.0, r0=1), weight=1.0)
    assert solve([squeezed, leaves], [4, 1]).chosen == (1, 0)


def test_what_no_higher_priority_may_claim_stays() -> None:
    holds = Party("holds", 1, 4.0, (mix(2.0, r0=2), replace(NOTHING, loses=True)), 0, least=((0, 2),))
    grows = party("grows", NOTHING, mix(2.0, r0=2))
    assert solve([grows, holds], [2]).chosen is None


def test_shortage_is_spread() -> None:
    """Of 4 GPUs two each, and not four and none."""
    shares = [mix(float(n), 1.0 - n / 4.0, r0=n) for n in range(5)]
    chosen = solve([party("a", *shares, now=4), party("b", *shares)], [4]).chosen
    assert chosen == (2, 2)


@pytest.mark.parametrize("least", [0.0, 0.0009])
def test_what_saves_too_little_moves_nobody(least: float) -> None:
    stays = party("a", mix(4.0, r0=4), mix(4.0 * (1.0 - least), r1=4))
    found = solve([stays], [4, 4])
    assert found.chosen is None
    assert found.why == "it gains less than 0.1%"


def test_a_search_that_ends_without_an_answer_leaves_what_is_there() -> None:
    """Odd sizes on one row: the relaxation splits one of them, and no node may be looked at."""
    sizes = [[31, 47, 83], [29, 53, 71], [37, 59, 67], [41, 43, 61], [23, 73, 79]]
    parties = [
        party(str(n), NOTHING, *(mix(1.0, 1.0 - units / 90.0, r0=units) for units in each))
        for n, each in enumerate(sizes)
    ]
    ended = solve(parties, [151], most_nodes=0)
    assert (ended.chosen, ended.why) == (None, "it found nothing within 0 nodes")
    full = solve(parties, [151])
    assert full.chosen is not None
    assert fits(parties, full.chosen, [151])


@pytest.mark.parametrize(
    ("story", "parties", "rooms"),
    [
        ("nobody", [], [3]),
        ("nothing to choose from", [party("a")], [3]),
        ("no row", [party("a", mix(1.0))], []),
        ("one choice that fits nowhere", [party("a", mix(1.0, r0=9))], [3]),
        ("no weight, no cost", [party("a", NOTHING, NOTHING, weight=0.0)], [0]),
    ],
)
def test_cases_without_a_question_leave_what_is_there(story: str, parties: list[Party], rooms: list[int]) -> None:
    assert solve(parties, rooms).chosen is None, story


# --- in the plan: two services, of which one could go elsewhere


def both(at: str, rps: float = 20.0, a_on: dict[str, int] | None = None, b: int = 1, **changes: Any) -> Any:
    """`ml/a` may run on h100 or a100, `ml/b` on h100 alone; h100 has 6 GPUs."""
    first = a_on or {"h100": 2, "a100": 0}
    declared = spec("ml/a", variants=[variant_spec("h100"), variant_spec("a100", "a100")], down_delay_s=0.0)
    states = [variant(name, pods(count, rps, f"a-{name}")) for name, count in first.items()]
    second = service(variant("h100", pods(b, rps, "b")), spec("ml/b", **changes))
    held = first["h100"] + b
    pools = [pool("h100", [node("n", 6, held)], price="3.00"), pool("a100", [node("m", 16, first["a100"])], price=at)]
    return snapshot([service(states, declared), second], pools)


def wanted(decided: Any) -> dict[tuple[str, str], int]:
    return {(each.key, item.name): item.wanted for each in decided.services for item in each.variants}


def test_one_that_can_goes_elsewhere_so_that_both_are_carried() -> None:
    """One after the other, `a` takes what is left of h100, and `b` finds no room although a100 stands empty."""
    decided = settled(both("3.20", rps=60.0), 900.0).plan
    (shown,) = decided.placements
    assert shown.decided_by == "programme", shown.text
    assert shown.services == ("ml/a", "ml/b")
    line = next(step.text for step in decided.services[0].waterfall if step.name == "placement")
    assert "by the programme over 2 services and" in line
    assert wanted(decided)["ml/a", "a100"] > 0


def test_where_no_pool_binds_nothing_is_solved_and_nothing_said() -> None:
    decided = settled(both("9.00", rps=5.0), 900.0).plan
    assert decided.placements == ()
    assert not any("programme" in step.text for each in decided.services for step in each.waterfall)


class Town:
    """Services that obey at once: what is allowed runs in the next cycle and shares the load. All are H100s."""

    def __init__(self, loads: dict[str, float], pools: dict[str, tuple[str, int]], priorities: dict[str, int]) -> None:
        self.loads, self.pools, self.priorities = loads, pools, priorities
        self.counts = {key: dict.fromkeys(pools, 0) | {next(iter(pools)): 1} for key in loads}
        self.loop = Loop()
        self.receipts: dict[tuple[str, str], WriteReceipt] = {}
        self.history: list[dict[str, dict[str, int]]] = []

    def rate(self, key: str, name: str, index: int) -> float:
        """Arrivals of one pod as its rate shows them: over the last minute, of which it may have served a part."""
        minute = [*self.history[-5:], self.counts]
        shares = (1.0 / max(1, sum(past[key].values())) if index < past[key][name] else 0.0 for past in minute)
        return self.loads[key] * sum(shares) / len(minute)

    def cycle(self, noise: float = 0.0) -> Any:
        states, held = [], dict.fromkeys(self.pools, 0)
        for key in self.loads:
            variants = []
            for name, count in self.counts[key].items():
                held[name] += count
                pod_states = tuple(
                    pod(f"{key}-{name}-{n}", engine(self.rate(key, name, n) * (1.0 + noise))) for n in range(count)
                )
                variants.append(variant(name, pod_states, last_write=self.receipts.get((key, name))))
            declared = spec(
                key,
                variants=[variant_spec(name, name) for name in self.pools],
                priority=self.priorities.get(key, 100),
                down_delay_s=0.0,
            )
            states.append(service(variants, declared))
        pools = [
            pool(name, [node(name, gpus, held[name])], price=f"{float(price) * (1.0 + noise):.4f}")
            for name, (price, gpus) in self.pools.items()
        ]
        decided = self.loop.run(snapshot(states, pools))
        for each in decided.actions:
            self.counts[each.service][each.variant] = each.to_replicas
            self.receipts[each.service, each.variant] = WriteReceipt(each.target_uid, each.to_replicas, self.loop.now_s)
        self.history.append({key: dict(counts) for key, counts in self.counts.items()})
        for name, (_, gpus) in self.pools.items():
            assert sum(counts[name] for counts in self.counts.values()) <= gpus, (name, self.counts)
        return decided


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_in_a_town_short_of_gpus_nobody_moves_to_and_fro(noise: float) -> None:
    """Twenty cycles and more fed back into themselves, loads and prices wobbling by less than a start-up is worth."""
    loads = {f"ml/s{n}": 30.0 + 17.0 * n for n in range(5)}
    town = Town(loads, {"east": ("3.00", 5), "west": ("2.20", 4), "north": ("2.60", 3)}, {"ml/s1": 200})
    for cycle in range(150):  # until start-ups, capacities and forecasts are learnt
        decided = town.cycle(noise * (-1) ** cycle)
    assert decided.placements, "the case is one in which pools couple them"
    assert all(shown == town.history[-1] for shown in town.history[-30:]), town.history[-30:]


def test_a_higher_priority_is_carried_first_whatever_the_others_lack() -> None:
    loads = {"ml/low": 90.0, "ml/top": 90.0, "ml/zero": 90.0}
    town = Town(loads, {"east": ("3.00", 4), "west": ("2.20", 3)}, {"ml/top": 300})
    for _ in range(150):
        decided = town.cycle()
    missing = {each.key: any("finds no room" in step.text for step in each.waterfall) for each in decided.services}
    assert missing == {"ml/low": True, "ml/top": False, "ml/zero": True}


def test_a_variant_that_fails_is_not_preferred_because_it_would_be_cheaper() -> None:
    """Two sound ones run and carry the load; two that crash hold places they would carry it at for half."""
    crashing = [pod(f"b-{n}", phase=PodPhase.CRASH_LOOPING, message="exit 1") for n in range(2)]
    declared = spec(variants=[variant_spec("broken", "a100"), variant_spec("sound", "reserve")], down_delay_s=None)
    pools = [pool("a100", [node("n", 16, 2)], price="1.10"), pool("reserve", [node("m", 16, 4)], price="2.00")]
    loop = settled(
        snapshot(service([variant("broken", ()), variant("sound", pods(2, 8.0, "s", itl_s=0.014))], declared), pools),
        300,
    )
    both = service([variant("broken", crashing), variant("sound", pods(2, 8.8, "s", itl_s=0.014))], declared)
    for _ in range(6):
        decided = loop.run(snapshot([both], pools))
        assert wanted(decided)["ml/chat", "broken"] == 0
        assert wanted(decided)["ml/chat", "sound"] >= 1


def test_replicas_that_fail_are_asked_for_beside_sound_ones_and_never_in_their_place() -> None:
    """All four sound ones that may run are wanted, though with four that crash three would do on paper."""
    crashing = [pod(f"b-{n}", phase=PodPhase.CRASH_LOOPING, message="exit 1") for n in range(4)]
    declared = spec(variants=[variant_spec("broken", "h100"), variant_spec("sound", "reserve", max_replicas=4)])
    pools = [pool("h100", [node("n", 16, 4)], price="1.10"), pool("reserve", [node("m", 16, 2)], price="9.00")]
    both = service([variant("broken", crashing), variant("sound", pods(2, 58.0, "s", itl_s=0.02))], declared)
    decided = settled(snapshot([both], pools), 360).plan
    assert wanted(decided)["ml/chat", "sound"] == 4
    assert wanted(decided)["ml/chat", "broken"] == 4, "what else there is stays declared"
