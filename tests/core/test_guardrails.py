"""Each guardrail on its own, and their precedence as a table."""

import msgspec
import pytest

from ebbtide.core.guardrails.chain import ORDER
from ebbtide.core.plan import plan
from ebbtide.model.memory import Recommendation
from ebbtide.model.snapshot import NOT_APPLICABLE, PodPhase, Quality, Reading, WriteReceipt
from ebbtide.model.spec import Mode, Pause, PauseDirection
from tests.builders import (
    NOW,
    Fleet,
    Loop,
    condition,
    engine,
    fresh,
    node,
    pod,
    pods,
    pool,
    service,
    settled,
    silent_engine,
    snapshot,
    spec,
    stale,
    target,
    to_zero,
    variant,
    variant_spec,
)

HIGH, LOW = 60.0, 2.0  # requests/s a pod: two pods at 60 need more, eight at 2 need fewer


def declared(**changes):
    return spec(variants=[variant_spec()], **changes)


def decide(replicas, rps, service_spec, seconds=900.0, **changes):
    pod_states = changes.pop("pods", None) or pods(replicas, rps)
    target_changes = changes.pop("target", {})
    state = snapshot(service(variant("h100", pod_states, replicas, **target_changes), service_spec, **changes))
    loop = settled(state, seconds)
    return loop.plan.services[0], loop.plan.actions


def test_the_order_is_the_documented_precedence():
    assert [name for name, _ in ORDER] == [
        "bounds",
        "room",
        "delay",
        "rate",
        "rollout",
        "zero",
        "pause",
        "conflict",
        "staleness",
        "ceiling",
        "floor",
        "fault",
    ]


PAUSE_ALL, PAUSE_UP, PAUSE_DOWN = (
    Pause(direction=d) for d in (PauseDirection.ALL, PauseDirection.UP, PauseDirection.DOWN)
)
STALE_PODS = tuple(
    pod(f"a-{i}", msgspec.structs.replace(engine(LOW), arrivals=stale(LOW), finished=stale(LOW))) for i in range(8)
)


@pytest.mark.parametrize(
    ("story", "replicas", "rps", "scaling", "extra", "want", "limited_by"),
    [
        ("load beyond the maximum stops at the maximum", 2, HIGH, {"max_replicas": 4}, {}, "== 4", "AtMaximum"),
        ("no load stops at the minimum", 8, 0.0, {"min_replicas": 3}, {}, "== 3", "AtMinimum"),
        ("pause All holds a rise", 2, HIGH, {"pause": PAUSE_ALL}, {}, "== 2", "Paused"),
        ("pause All holds a fall", 8, LOW, {"pause": PAUSE_ALL}, {}, "== 8", "Paused"),
        ("pause Up holds a rise", 2, HIGH, {"pause": PAUSE_UP}, {}, "== 2", "Paused"),
        ("pause Up lets a fall through", 8, LOW, {"pause": PAUSE_UP}, {}, "< 8", ""),
        ("pause Down lets a rise through", 2, HIGH, {"pause": PAUSE_DOWN}, {}, "> 2", ""),
        ("pause Down holds a fall", 8, LOW, {"pause": PAUSE_DOWN}, {}, "== 8", "Paused"),
        ("pause is stronger than the minimum", 1, LOW, {"min_replicas": 3, "pause": PAUSE_ALL}, {}, "== 1", "Paused"),
        ("pause is stronger than the maximum", 8, LOW, {"max_replicas": 4, "pause": PAUSE_ALL}, {}, "== 8", "Paused"),
        (
            "stale is stronger than the maximum",
            8,
            LOW,
            {"max_replicas": 4},
            {"pods": STALE_PODS},
            "== 8",
            "MetricsStale",
        ),
        (
            "a rival is stronger than the minimum",
            1,
            LOW,
            {"min_replicas": 3},
            {"target": {"rivals": ("HPA x",)}},
            "== 1",
            "TargetConflict",
        ),
        ("a rollout holds a fall", 8, LOW, {}, {"target": {"rolling_out": True}}, "== 8", "RolloutInProgress"),
        (
            "a rollout lets a rise through",
            2,
            HIGH,
            {},
            {"target": {"rolling_out": True, "surge_replicas": 1}},
            "> 2",
            "",
        ),
        (
            "the maximum is stronger than the rollout's load",
            2,
            HIGH,
            {"max_replicas": 2},
            {"target": {"rolling_out": True}},
            "== 2",
            "AtMaximum",
        ),
        ("more a minute than allowed is cut", 2, HIGH, {"up_max_per_minute": 1}, {}, "== 3", "RateLimited"),
        ("fewer a minute than allowed is cut", 8, LOW, {"down_max_per_minute": 2}, {}, "== 6", "RateLimited"),
    ],
)
def test_precedence(story, replicas, rps, scaling, extra, want, limited_by):
    decided, _ = decide(replicas, rps, declared(**scaling), **extra)
    allowed = decided.variants[0].allowed
    assert eval(f"{allowed} {want}"), f"{story}: {allowed}"
    assert decided.variants[0].limited_by == limited_by, story
    assert decided.waterfall[0].name == "load"
    assert decided.waterfall[-1].replicas == allowed


@pytest.mark.parametrize("mode", [Mode.OFF, Mode.RECOMMEND])
def test_off_and_recommend_plan_but_never_act(mode):
    decided, actions = decide(2, HIGH, declared(mode=mode))
    assert decided.variants[0].allowed > 2
    assert actions == ()
    assert condition(decided, "Acting") == ("False", f"Mode{mode.value}")


def test_down_delay_holds_for_exactly_its_time():
    """F16: neither faster nor slower than declared."""
    fleet = Fleet(declared(down_delay_s=300.0, down_max_per_minute=100), {"h100": 4})
    fleet.run(80.0, 3600)  # until its forecasts are trusted
    before = fleet.total
    fleet.history.clear()
    fleet.run(8.0, 600)
    first = next(i for i, total in enumerate(fleet.history) if total < before)
    assert 300.0 <= first * 10.0 <= 430.0  # the delay, plus what the level takes to be believed


def words(decided, guard):
    return next((step.text for step in decided.waterfall if step.name == guard), "")


@pytest.mark.parametrize(
    ("story", "fleet", "watched_s", "said"),
    [
        (
            "a first look, at a moment that rounds up, lowers nothing",
            pods(8, LOW),
            0.0,
            "watched for 0s of the 300s before anything is lowered",
        ),
        ("half-way there", pods(8, LOW), 150.0, "watched for 150s of the 300s before anything is lowered"),
        (
            "a first look raises nothing",
            pods(2, HIGH),
            0.0,
            "watched for 0s of the 10s before anything is raised",
        ),
        (
            "lengths of requests that nobody saw",
            pods(2, HIGH, prompt_tokens=NOT_APPLICABLE, generation_tokens=NOT_APPLICABLE),
            60.0,
            "no token lengths seen yet, usual ones hold after 120s: watched for 60s",
        ),
        (
            "young replicas: what is waited for is the end of their answers, not the watching",
            tuple(pod(f"a-{i}", engine(HIGH, itl_s=0.02), created_at=NOW - 60.0, ready_at=NOW - 4.0) for i in range(2)),
            60.0,
            "the oldest replica has been ready for 64s; what one carries is known after 60s of answers, "
            "the first of which take up to 13s",
        ),
    ],
)
def test_warming_up_says_what_is_waited_for(story, fleet, watched_s, said):
    loop = Loop(now_s=NOW - 0.03)  # remembered as NOW
    state = snapshot(service(variant("h100", fleet), declared()))
    decided = loop.one(state, watched_s + 10.0)
    assert words(decided, "delay") == said, story
    assert decided.reason.code.value == "WarmingUp"


def test_the_up_delay_counts_from_zero_also_where_its_start_was_rounded_up():
    loop = Loop(now_s=NOW + 0.97)
    busy = snapshot(service(variant("h100", pods(2, 12.0)), declared(up_delay_s=120.0)))
    loop.run(busy, 300.0)
    decided = loop.one(snapshot(service(variant("h100", pods(2, HIGH)), declared(up_delay_s=120.0))))
    assert words(decided, "delay") == "more than 2 wanted for 0s of 120s (up.delay)"


def test_up_delay_waits_until_more_was_wanted_all_the_time():
    fleet = Fleet(declared(up_delay_s=120.0), {"h100": 2})
    fleet.run(20.0, 120)
    fleet.history.clear()
    fleet.run(90.0, 240)
    first = next(i for i, total in enumerate(fleet.history) if total > 2)
    assert 110.0 <= first * 10.0 <= 140.0


def test_rates_hold_in_every_minute():
    fleet = Fleet(declared(up_max_per_minute=3, down_max_per_minute=2, down_delay_s=60.0), {"h100": 2})
    fleet.run(10.0, 300)
    fleet.run(150.0, 300)
    fleet.run(5.0, 900)
    for start in range(len(fleet.history) - 6):
        window = fleet.history[start : start + 7]
        assert max(window) - window[0] <= 3
        assert window[0] - min(window) <= 2


def test_an_expired_pause_has_no_effect():
    decided, actions = decide(2, HIGH, declared(pause=Pause(until_unix_s=NOW + 100.0)))
    assert actions and condition(decided, "Paused")[0] == "False"


def test_pause_with_replicas_goes_there_once_and_then_holds():
    fleet = Fleet(declared(pause=Pause(replicas=5, by="ann", reason="launch")), {"h100": 2})
    fleet.run(4.0, 60)
    assert fleet.total == 5
    fleet.born["h100"] = fleet.born["h100"][:4]  # somebody scales by hand: the pause was applied, it does not fight
    fleet.run(4.0, 120)
    assert fleet.total == 4
    assert condition(fleet.loop.plan.services[0], "Paused") == ("True", "Paused")


def test_pause_with_replicas_that_find_no_room_is_said_and_goes_there_once_there_is_some():
    pinned = declared(pause=Pause(replicas=3))
    loop = settled(snapshot(service(variant("h100", pods(1, LOW)), pinned), pool(nodes=[node("n", 8, 8)])), 60.0)
    waiting = loop.plan.services[0]
    assert waiting.variants[0].allowed == 1
    assert "paused (All) at 3 replicas; there is room for 1 so far" in waiting.reason.text
    said = next(item.message for item in waiting.conditions if item.type == "Paused")
    assert said == "paused (All) at 3 replicas; 1 allowed so far"
    later = loop.one(snapshot(service(variant("h100", pods(1, LOW)), pinned), pool(nodes=[node("n", 8, 4)])))
    assert later.variants[0].allowed == 3


def test_pause_never_writes_in_the_paused_direction_even_with_replicas():
    for direction, goal in ((PauseDirection.DOWN, 1), (PauseDirection.UP, 9)):
        fleet = Fleet(declared(pause=Pause(direction=direction, replicas=goal)), {"h100": 3})
        fleet.run(40.0, 60)
        changes = [b - a for a, b in zip([3, *fleet.history], fleet.history, strict=False)]
        assert (
            all(change >= 0 for change in changes) if direction is PauseDirection.DOWN else all(c <= 0 for c in changes)
        )


ZERO = {"min_replicas": 0, "scale_to_zero": to_zero(600.0)}


@pytest.mark.parametrize(
    ("story", "extra", "want", "limited_by"),
    [
        ("fresh zero and a readable activator", {"gateway_queue": fresh(0.0)}, 0, ""),
        ("the activator was never read", {}, 1, "ActivatorUnseen"),
        ("the activator's value is stale", {"gateway_queue": stale(0.0)}, 1, "ActivatorUnseen"),
        (
            "one pod is silent",
            {"gateway_queue": fresh(0.0), "pods": (pod("a", engine(0.0)), pod("b", silent_engine()))},
            2,
            "MetricsMissing",
        ),
    ],
)
def test_to_zero_only_when_it_is_known(story, extra, want, limited_by):
    decided, _ = decide(2, 0.0, declared(**ZERO), **extra)
    assert decided.variants[0].allowed == want, story
    assert decided.variants[0].limited_by == limited_by, story


def test_not_to_zero_before_the_declared_time():
    decided, _ = decide(1, 0.0, declared(**ZERO), seconds=400.0, gateway_queue=fresh(0.0))
    assert decided.variants[0].allowed == 1
    assert decided.reason.code.value == "RequestsNotSeenZero"


def test_from_zero_at_once_when_the_gateway_holds_requests():
    """F21: also in the first cycle after a start with an empty memory."""
    state = snapshot(service(variant("h100", (), 0), declared(**ZERO), gateway_queue=fresh(3.0)))
    loop = Loop()
    decided = loop.one(state)
    assert decided.variants[0].allowed >= 1
    assert decided.reason.code.value == "FirstRequest"
    assert "3 requests" in decided.reason.text
    assert loop.plan.actions


@pytest.mark.parametrize(
    ("story", "queue", "raised", "wanted", "limit"),
    [
        ("less than a request waits, so nothing is wanted yet", 0.4, 0, 0, ""),
        ("the rate lets none up, and the only one comes all the same", 30.0, 1, 1, ""),
        ("the rate lets none up, and the first of many comes all the same", 6000.0, 1, 4, "RateLimited"),
    ],
)
def test_a_wake_up_is_no_limit(story, queue, raised, wanted, limit):
    asleep = declared(**ZERO, up_max_per_minute=1)
    loop = Loop(now_s=NOW - 10.0)
    loop.run(snapshot(service(variant("h100", (), 0), asleep, gateway_queue=fresh(0.0))))
    known = msgspec.structs.replace(loop.memory.services[0], moves=(Recommendation(NOW - 5.0, raised),))
    loop.memory = msgspec.structs.replace(loop.memory, services=(known,))
    decided = loop.one(snapshot(service(variant("h100", (), 0), asleep, gateway_queue=fresh(queue))))
    (shown,) = decided.variants
    assert (shown.wanted, shown.allowed, shown.limited_by) == (wanted, 1, limit), story
    assert decided.reason.code.value == "FirstRequest"
    assert words(decided, "zero") == f"the gateway holds {queue:.0f} requests"
    assert condition(decided, "Limited") == (("True", limit) if limit else ("False", "NotLimited"))


def test_at_zero_with_an_activator_that_stays_silent_one_replica_comes_up():
    state = snapshot(service(variant("h100", (), 0), declared(**ZERO), gateway_queue=Reading(Quality.UNKNOWN)))
    loop = Loop()
    assert loop.one(state).variants[0].allowed == 0
    assert loop.one(state, 120.0).variants[0].allowed == 1
    assert loop.plan.services[0].reason.code.value == "ActivatorUnseen"


def test_a_gateway_without_scale_to_zero_never_takes_the_last_replica():
    decided, _ = decide(2, 0.0, declared(min_replicas=1), gateway_queue=fresh(0.0))
    assert decided.variants[0].allowed == 1


@pytest.mark.parametrize("code", ["PoolMismatch", "TargetNotFound", "TargetShared"])
def test_faults_of_the_target_forbid_writing_and_are_named(code):
    decided, actions = decide(2, HIGH, declared(), target={"faults": ((code, "words of the observer"),)})
    assert actions == ()
    assert condition(decided, "TargetResolved") == ("False", code)
    assert decided.reason.code.value == code and "words of the observer" in decided.reason.text


def test_a_fault_whose_words_name_the_variant_is_not_given_its_name_again():
    said = "variant h100: the pod template's nodeSelector has gpu=a100"
    decided, _ = decide(2, HIGH, declared(), target={"faults": (("PoolMismatch", said),)})
    messages = {c.type: c.message for c in decided.conditions}
    assert decided.reason.text == messages["TargetResolved"] == messages["Ready"] == messages["Acting"] == said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"exists": False}, "variant h100: Deployment chat-h100 does not exist in ml"),
        ({"scalable": False}, "variant h100: Deployment has no scale subresource"),
    ],
)
def test_a_fault_that_the_target_shows_by_itself_names_the_variant_once(changes, said):
    decided, _ = decide(2, HIGH, declared(), target=changes)
    assert decided.reason.text == said


def test_a_missing_pool_is_a_condition():
    state = snapshot(service(variant("h100", pods(2, HIGH))), pools=[pool("other")])
    loop = settled(state)
    assert loop.plan.actions == ()
    assert condition(loop.plan.services[0], "TargetResolved") == ("False", "PoolNotFound")


def written(replicas, at=NOW):
    return WriteReceipt("uid-h100", replicas, at)


def test_one_change_by_hand_is_drift_and_the_new_starting_point():
    """F26."""
    fleet = Fleet(declared(), {"h100": 3})
    fleet.run(60.0, 900)
    fleet.born["h100"] += [fleet.now_s - 100.0] * 5
    decided = fleet.cycle(60.0).services[0]
    assert condition(decided, "Acting") == ("True", "Drifted")
    held = fleet.total
    fleet.run(60.0, 280)
    assert fleet.total == held
    fleet.run(60.0, 900)
    assert fleet.total < held


def test_a_change_by_hand_at_a_moment_that_rounds_up_was_not_made_in_the_future():
    loop = Loop(now_s=NOW - 0.03)
    loop.run(snapshot(service(variant("h100", pods(3, 5.0)), declared())))
    loop.now_s = NOW + 9.97
    decided = loop.one(snapshot(service(variant("h100", pods(4, 5.0)), declared())))
    (said,) = [c.message for c in decided.conditions if c.type == "Acting"]
    assert said.startswith("Deployment chat-h100 was scaled from 3 to 4 by somebody else 0s ago")


def test_two_reversions_within_ten_minutes_are_a_conflict_and_hands_off():
    """F10: a rival that is not visible as an object."""
    fleet = Fleet(declared(), {"h100": 2})
    fleet.run(20.0, 60)
    for _ in range(40):
        fleet.cycle(120.0)
        fleet.born["h100"] = fleet.born["h100"][:2]  # put back at once, as a GitOps tool does
    decided = fleet.loop.plan.services[0]
    assert condition(decided, "Acting") == ("False", "TargetConflict")
    assert "set back 2 times" in decided.reason.text
    assert fleet.loop.plan.actions == ()


def test_a_person_who_scales_twice_after_one_write_of_ours_is_no_rival():
    loop = Loop()
    ours = {"last_write": written(4, NOW + 28.0)}
    loop.run(snapshot(service(variant("h100", pods(2, 5.0)), declared())), 30)
    loop.run(snapshot(service(variant("h100", pods(4, 5.0), **ours), declared())), 30)
    for replicas in (6, 5):
        decided = loop.one(snapshot(service(variant("h100", pods(replicas, 5.0), **ours), declared())), 20)
        assert condition(decided, "Acting") == ("True", "Drifted")


def test_our_own_write_that_the_watch_does_not_show_yet_is_no_drift():
    state = service(variant("h100", pods(2, 5.0), last_write=written(4, NOW + 28.0)), declared())
    loop = Loop()
    loop.run(snapshot(service(variant("h100", pods(2, 5.0)), declared())), 30)
    decided = loop.one(snapshot(state))
    assert condition(decided, "Acting") == ("True", "Acting")


def test_a_rival_object_is_named():
    decided, actions = decide(2, HIGH, declared(), target={"rivals": ("HorizontalPodAutoscaler chat-hpa",)})
    assert actions == ()
    assert condition(decided, "Acting") == ("False", "TargetConflict")
    # named, not written: a second service in mode Off is a rival too, and writes nothing
    named = "Deployment chat-h100 of variant h100 is also named by HorizontalPodAutoscaler chat-hpa: hands off"
    assert decided.reason.text == named


@pytest.mark.parametrize(
    ("most", "words"), [(1, "at most 1 replica is declared"), (2, "at most 2 replicas are declared")]
)
def test_more_replicas_than_the_maximum_are_told_in_the_right_number(most, words):
    decided, _ = decide(3, HIGH, declared(max_replicas=most))
    assert (decided.reason.code.value, decided.reason.text) == ("AboveMaximum", f"3 -> {most}: {words}")


def test_a_recreated_target_is_adopted_without_drift():
    loop = settled(snapshot(service(variant("h100", pods(4, 20.0)), declared())), 300)
    recreated = variant("h100", pods(1, 20.0))
    recreated = msgspec.structs.replace(recreated, target=target(1, uid="another"))
    decided = loop.one(snapshot(service(recreated, declared())))
    assert condition(decided, "Acting") == ("True", "Acting")


def test_pods_not_ready_at_all_clamp_to_the_minimum_instead_of_zero():
    """F20."""
    starting = tuple(pod(f"a-{i}", phase=PodPhase.STARTING) for i in range(3))
    decided, actions = decide(3, 0.0, declared(), pods=starting)
    assert decided.variants[0].allowed == 3
    assert actions == ()


def test_while_pods_are_too_young_for_rates_nothing_is_lowered():
    calm = declared(down_delay_s=0.0)
    loop = settled(snapshot(service(variant("h100", pods(8, LOW)), calm)), 100.0)
    young = tuple(pod(f"b-{i}", silent_engine(), ready_at=loop.now_s - 1.0) for i in range(2))
    loop.cycle_s = 1.0
    decided = loop.one(snapshot(service(variant("h100", (*pods(6, LOW), *young)), calm)))
    assert decided.variants[0].allowed == 8
    assert "have no rates yet" in words(decided, "staleness")


@pytest.mark.parametrize(
    ("story", "scaling", "wants", "allowed"),
    [
        ("a variant's own minimum without any load", {}, {"h100": {"min_replicas": 0}, "a100": {"min_replicas": 2}}, 2),
        ("also where the total's maximum cuts", {"max_replicas": 3}, {"h100": {}, "a100": {"min_replicas": 2}}, 2),
    ],
)
def test_a_variant_keeps_its_own_minimum(story, scaling, wants, allowed):
    variants = [variant_spec(name, name, **more) for name, more in wants.items()]
    state = service(
        [variant("h100", pods(4, 0.0, "h")), variant("a100", pods(3, 0.0, "a"))], spec(variants=variants, **scaling)
    )
    pools = [pool("h100", price="0.10"), pool("a100", price="9.00")]
    decided = settled(snapshot(state, pools)).plan.services[0]
    assert decided.variants[1].allowed >= allowed, story


def test_a_variants_own_maximum_is_not_exceeded_and_is_reached_from_above():
    variants = [variant_spec("h100", "h100", max_replicas=2), variant_spec("a100", "a100")]
    state = service([variant("h100", pods(4, 20.0, "h")), variant("a100", ())], spec(variants=variants))
    decided = settled(snapshot(state, [pool("h100", price="0.10"), pool("a100", price="9.00")])).plan.services[0]
    assert decided.variants[0].wanted <= 2


def test_pause_with_replicas_stays_within_the_declared_bounds():
    for goal, want in ((9, 6), (0, 2)):
        fleet = Fleet(declared(min_replicas=2, max_replicas=6, pause=Pause(replicas=goal)), {"h100": 3})
        fleet.run(4.0, 120)
        assert fleet.total == want, goal


def test_pause_with_no_replicas_leaves_one_while_requests_come():
    fleet = Fleet(declared(min_replicas=0, scale_to_zero=to_zero(60.0), pause=Pause(replicas=0)), {"h100": 3})
    fleet.run(4.0, 120)
    assert fleet.total == 1


def test_what_was_scaled_down_by_hand_is_not_raised_at_once():
    loop = settled(snapshot(service(variant("h100", pods(4, 20.0)), declared(min_replicas=4))), 300)
    decided = loop.one(snapshot(service(variant("h100", pods(2, 40.0)), declared(min_replicas=4))), 30)
    assert decided.variants[0].allowed == 2
    assert condition(decided, "Acting") == ("True", "Drifted")
    later = loop.one(snapshot(service(variant("h100", pods(2, 40.0)), declared(min_replicas=4))), 90)
    assert later.variants[0].allowed >= 4


def test_the_up_delay_does_not_hold_back_a_declared_minimum():
    decided, _ = decide(1, LOW, declared(min_replicas=3, up_delay_s=3600.0), seconds=100.0)
    assert decided.variants[0].allowed == 3


@pytest.mark.parametrize(("raised", "prices"), [("a100", ("9.00", "1.00")), ("h100", ("1.00", "9.00"))])
def test_a_minimum_is_brought_about_by_the_cheapest_variant(raised, prices):
    names = ("h100", "a100")
    state = service(
        [variant("h100", pods(1, LOW, "h")), variant("a100", pods(1, LOW, "a"))],
        spec(variants=[variant_spec(name, name, min_replicas=1) for name in names], min_replicas=4),
    )
    decided = settled(
        snapshot(state, [pool(name, price=price) for name, price in zip(names, prices, strict=True)])
    ).plan.services[0]
    assert {v.name: v.allowed for v in decided.variants}[raised] == 3


def test_a_variants_own_minimum_is_brought_about_also_where_the_load_is_unknown():
    silent = tuple(pod(f"h-{i}", silent_engine()) for i in range(2))
    variants = [variant_spec("h100", "h100"), variant_spec("a100", "a100", min_replicas=2)]
    state = service([variant("h100", silent), variant("a100", ())], spec(variants=variants))
    decided = settled(snapshot(state, [pool("h100"), pool("a100")])).plan.services[0]
    assert {v.name: v.allowed for v in decided.variants} == {"h100": 2, "a100": 2}


def test_a_move_between_variants_stays_within_the_maximum():
    """Two dear ones stay until their stand-ins are ready, so of five cheap ones only three may start at first."""
    state = service(
        [variant("h100", pods(3, 12.0, "h")), variant("a100", ())],
        spec(variants=[variant_spec("h100", "h100"), variant_spec("a100", "a100")], max_replicas=5),
    )
    decided = settled(snapshot(state, [pool("h100", price="50.00"), pool("a100", price="0.10")])).plan.services[0]
    assert [v.wanted for v in decided.variants] == [0, 5], "the case is one in which a move pays"
    assert [v.allowed for v in decided.variants] == [2, 3]


def a_pair(cheap, dear, rps, of_each, **scaling):
    """A cheap H100 variant and a dear A100 one, `of_each` being the minimum of both."""
    names = ("h100", "a100")
    declared_pair = spec(variants=[variant_spec(name, name, min_replicas=of_each) for name in names], **scaling)
    state = service([variant("h100", pods(cheap, rps, "h")), variant("a100", pods(dear, rps, "a"))], declared_pair)
    decided = settled(snapshot(state, [pool("h100", price="1.00"), pool("a100", price="9.00")])).plan.services[0]
    return [v.allowed for v in decided.variants]


def test_what_the_rate_leaves_of_a_raise_goes_to_the_cheapest():
    assert a_pair(1, 1, LOW, 3, up_max_per_minute=2) == [3, 1]


def test_what_the_rate_leaves_of_a_fall_is_taken_from_the_dearest():
    assert a_pair(3, 3, 0.0, 1, down_max_per_minute=2) == [3, 1]


def test_a_pause_with_fewer_replicas_takes_none_below_its_variants_minimum():
    assert a_pair(3, 3, LOW, 2, pause=Pause(replicas=4)) == [2, 2]


def test_not_to_zero_once_the_activators_queue_can_no_longer_be_read():
    idle, short = pods(2, 0.0), declared(min_replicas=0, scale_to_zero=to_zero(600.0))
    loop = settled(snapshot(service(variant("h100", idle), short, gateway_queue=fresh(0.0))), 400.0)
    decided = loop.one(snapshot(service(variant("h100", idle), short, gateway_queue=stale(0.0))), 600.0)
    assert decided.variants[0].allowed == 1
    assert decided.variants[0].limited_by == "ActivatorUnseen"


def test_a_variant_whose_target_does_not_exist_is_not_planned_with():
    state = service([variant("h100", (), 0, exists=False), variant("a100", pods(2, HIGH, "a"))])
    decided = settled(snapshot(state, [pool("h100", price="0.10"), pool("a100", price="9.00")])).plan.services[0]
    assert decided.variants[0].wanted == 0
    assert decided.variants[1].wanted > 2


def test_of_two_variants_the_one_that_fails_is_reduced_first_though_it_is_cheaper():
    crash = pod("h-x", phase=PodPhase.CRASH_LOOPING, message="exit 1")
    declared_pair = spec(variants=[variant_spec("h100", "h100"), variant_spec("a100", "a100")], pause=Pause(replicas=3))
    state = service([variant("h100", (*pods(1, LOW, "h"), crash)), variant("a100", pods(2, LOW, "a"))], declared_pair)
    decided = settled(snapshot(state, [pool("h100", price="1.00"), pool("a100", price="9.00")])).plan.services[0]
    assert [v.allowed for v in decided.variants] == [1, 2]


@pytest.mark.parametrize(("written", "allowed"), [(False, 2), (True, 1)])
def test_what_could_not_be_written_does_not_count_as_raised(written, allowed):
    """At most one a minute, and the API server answers 500: the next try is not a minute later."""

    def seen(receipt=None):
        state = variant("h100", pods(1, HIGH), 1, last_write=receipt, resource_version="8")
        return snapshot(service(state, declared(up_max_per_minute=1)))

    loop = settled(seen(), 150)
    first, memory = plan(seen(), loop.memory, loop.now_s)
    assert first.services[0].variants[0].allowed == 2
    receipt = WriteReceipt("uid-h100", 2, loop.now_s + 1.0, written, "9" if written else "")
    then, _ = plan(seen(receipt), memory, loop.now_s + 10.0)
    assert then.services[0].variants[0].allowed == allowed


def test_at_the_maximum_a_move_to_the_stronger_variant_ends():
    """Six of a100 are all that the maximum allows, and do not carry 120 requests/s; two of them and four of h100 do."""
    variants = [variant_spec("a100", "a100"), variant_spec("h100", "h100", max_replicas=4)]
    prices = [pool("a100", price="1.10"), pool("h100", price="6.90")]
    fleet = Fleet(spec(variants=variants, max_replicas=6), {"a100": 6, "h100": 0})
    fleet.run(45.0, 600, pools=prices)
    decided = fleet.run(120.0, 1800, pools=prices).services[0]
    assert max(fleet.history) <= 6
    assert {v.name: v.observed for v in decided.variants} == {"a100": 2, "h100": 4}
