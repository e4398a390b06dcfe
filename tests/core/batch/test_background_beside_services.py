"""A Background service beside an Interactive one on a node, in virtual time: it comes and goes with the window."""

from dataclasses import dataclass, field

from ebbtide.core.plan import plan
from ebbtide.model.batch import Strategy
from ebbtide.model.memory import Memory
from ebbtide.model.plan import Plan
from ebbtide.model.snapshot import PodPhase, WriteReceipt
from ebbtide.model.spec import ServiceClass
from tests.builders import (
    NOW,
    engine,
    fresh,
    misplaced,
    node,
    pod,
    pool,
    service,
    snapshot,
    spec,
    to_zero,
    variant,
    variant_spec,
)
from tests.jobs import batch_policy

CYCLE_S, GRACE_S, STARTUP_S = 10.0, 30.0, 40.0
GPUS, CHAT, EMBED = 8, "ml/chat", "ml/embed"


@dataclass
class _Pod:
    name: str
    born_s: float
    bound_s: float | None = None
    gone_s: float | None = None  # of one that was told to go

    def serves(self, now_s: float) -> bool:
        return self.gone_s is None and self.bound_s is not None and now_s - self.bound_s >= STARTUP_S


@dataclass
class Night:
    """One node of 8 GPUs, and two services of one GPU a replica; a window of `open_h` hours from now."""

    open_h: float
    strategy: Strategy = Strategy.WINDOW
    now_s: float = NOW
    memory: Memory = field(default_factory=Memory)
    plan: Plan = field(default_factory=lambda: Plan(at=NOW))
    queue: float = 1e6  # of requests that the gateway holds for the Background service
    made: int = 2
    receipts: dict[str, WriteReceipt] = field(default_factory=dict)
    longest_pending_s: float = 0.0
    pods: dict[str, list[_Pod]] = field(
        default_factory=lambda: {
            CHAT: [_Pod(f"p-{n}", NOW - 4000.0, NOW - 4000.0) for n in range(2)],
            EMBED: [],
        }
    )

    def held(self, key: str) -> int:
        return sum(each.bound_s is not None for each in self.pods[key])

    def declared(self, key: str) -> int:
        return sum(each.gone_s is None for each in self.pods[key])

    def _state(self, key: str, load: float, declared, **changes):
        ready = sum(each.serves(self.now_s) for each in self.pods[key])
        share, seen = load / max(1, ready), []
        for each in self.pods[key]:
            at = {"created_at": each.born_s, "node": "n" if each.bound_s is not None else ""}
            if each.gone_s is not None:
                seen.append(pod(each.name, phase=PodPhase.TERMINATING, **at))
            elif each.serves(self.now_s):
                missed = 0.3 if share > 26.0 else 0.0
                seen.append(pod(each.name, engine(share, missed=missed), ready_at=each.bound_s + STARTUP_S, **at))
            else:
                phase = PodPhase.STARTING if each.bound_s is not None else PodPhase.PENDING
                seen.append(pod(each.name, phase=phase, **at))
        states = variant("h100", seen, self.declared(key), uid=f"uid-{key}", last_write=self.receipts.get(key))
        return service(states, declared, **changes)

    def cycle(self, load: float) -> None:
        lent = {"service_class": ServiceClass.BACKGROUND, "labels": (("batch", "night"),)}
        zero = {"min_replicas": 0, "scale_to_zero": to_zero()}
        embed = spec(EMBED, [variant_spec()], **lent, **zero)
        working = 20.0 * sum(each.serves(self.now_s) for each in self.pods[EMBED])
        services = [
            self._state(CHAT, load, spec(CHAT, [variant_spec()], down_delay_s=120.0)),
            self._state(EMBED, min(working, self.queue), embed, gateway_queue=fresh(self.queue)),
        ]
        where = pool(nodes=[node("n", GPUS, self.held(CHAT) + self.held(EMBED))])
        policy = batch_policy(open_=[(0.0, self.open_h)], strategy=self.strategy)
        state = snapshot(services, where, batch_policies=(policy,), taken_at=self.now_s)
        self.plan, self.memory = plan(state, self.memory, self.now_s)
        assert not self.plan.failures, self.plan.failures
        assert not misplaced(self.plan)
        for action in self.plan.actions:
            self._obey(action.service, action.to_replicas, set(action.victims))
            self.receipts[action.service] = WriteReceipt(action.target_uid, action.to_replicas, self.now_s)
        self._on(working)

    def _obey(self, key: str, replicas: int, victims: set[str]) -> None:
        staying = [each for each in self.pods[key] if each.gone_s is None]
        staying.sort(key=lambda each: each.name in victims)
        for each in staying[replicas:]:
            each.gone_s = self.now_s + (GRACE_S if each.bound_s is not None else 0.0)
        for _ in range(replicas - len(staying)):
            self.made += 1
            self.pods[key].append(_Pod(f"p-{self.made}", self.now_s))

    def _on(self, working: float) -> None:
        self.now_s += CYCLE_S
        self.queue = max(0.0, self.queue - working * CYCLE_S)
        for key, pods in self.pods.items():
            self.pods[key] = [each for each in pods if each.gone_s is None or each.gone_s > self.now_s]
        for key in (CHAT, EMBED):  # the scheduler puts what matters more first
            for each in self.pods[key]:
                if each.bound_s is None and each.gone_s is None:
                    if key == CHAT:
                        self.longest_pending_s = max(self.longest_pending_s, self.now_s - each.born_s)
                    if self.held(CHAT) + self.held(EMBED) < GPUS:
                        each.bound_s = self.now_s
        assert self.held(CHAT) + self.held(EMBED) <= GPUS


def test_its_replicas_come_with_the_window_and_are_gone_with_it():
    night = Night(open_h=1.0)
    for _ in range(120):
        night.cycle(20.0)
    assert night.held(EMBED) >= 2 and night.queue < 1e6, night.plan.services[1].reason
    while night.now_s <= NOW + 3600.0 + CYCLE_S:
        night.cycle(20.0)
    assert night.declared(EMBED) == 0, night.plan.services[1].reason
    for _ in range(60):
        night.cycle(20.0)
        assert night.declared(EMBED) == 0
    assert night.held(EMBED) == 0 and night.queue > 0.0


def test_the_interactive_service_has_its_gpus_back_within_the_grace_time():
    night = Night(open_h=20.0)
    for _ in range(120):
        night.cycle(20.0)
    before, chats = night.held(EMBED), night.held(CHAT)
    assert before >= 2
    for _ in range(60):
        night.cycle(130.0)
    assert night.held(CHAT) > chats + 1 and night.held(EMBED) < before, night.plan.services[0].reason
    assert night.longest_pending_s <= GRACE_S + 2 * CYCLE_S


def test_a_queue_that_is_worked_off_lets_the_replicas_go():
    night = Night(open_h=20.0, queue=20_000.0)
    for _ in range(360):
        night.cycle(20.0)
    assert night.queue == 0.0 and night.declared(EMBED) == 0, night.plan.services[1].reason


def test_replicas_do_not_come_and_go_while_nothing_changes():
    night = Night(open_h=20.0)
    for _ in range(180):
        night.cycle(20.0 + 2.0 * (int(night.now_s / CYCLE_S) % 3))
    made = night.made
    for _ in range(120):
        night.cycle(20.0 + 2.0 * (int(night.now_s / CYCLE_S) % 3))
    assert night.made <= made + 1
