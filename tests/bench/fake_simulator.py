"""A simulator so simple that its numbers can be checked by hand: a queue a replica, served at 5 requests/s
each, in turn.

`FAKE_PAUSE_S` makes each run last that long, so that one can be killed in the middle; `FAKE_DIES_AT` ends the process
that runs that seed, as the kernel does when memory runs out. Each run adds a line to the file `FAKE_LOG`.
"""

import math
import os
import signal
import subprocess
from pathlib import Path

from ebbtide.bench.ablations import ABLATIONS, WHOLE
from ebbtide.bench.policy import Observation
from ebbtide.bench.rivals import REGISTRY
from ebbtide.bench.run import EBBTIDE, HOLD, PATH, RunResult, Served
from ebbtide.errors import ConfigurationError

PLACE = "tests.bench.fake_simulator:FakeSimulator"
PER_REPLICA = 5.0
ITL_S = 0.02


class FakeSimulator:
    name = "fake"

    def run(self, case, requests, rival_name, knob, seed, history):
        if case.model != "tiny":
            raise ConfigurationError(f"simulator fake has no model {case.model}; it has: tiny")
        if os.environ.get("FAKE_DIES_AT") == str(seed) and rival_name == EBBTIDE:
            os.kill(os.getpid(), signal.SIGKILL)
        if pause := os.environ.get("FAKE_PAUSE_S"):
            subprocess.run(["sleep", pause], check=True)  # simulators have processes of their own
        if log := os.environ.get("FAKE_LOG"):
            with Path(log).open("a") as lines:
                lines.write(f"{rival_name} {knob:g} {seed}\n")
        return _Run(case, rival_name, knob, history).serve(requests)


class _Run:
    def __init__(self, case, name, knob, history):
        self.case, self.name, self.history = case, name, tuple(history)
        self.policy = REGISTRY[name].make(case, knob) if name in REGISTRY else None
        self.knob = knob
        self.declared = case.start_replicas
        self.coming: list[float] = []
        self.changes = [(0.0, self.declared, self.declared)]
        self.events = 0

    def serve(self, requests):
        served, tick_s, came = [], 0.0, 0
        free_s = [0.0] * self.case.max_replicas
        billed_s = startup_s = 0.0
        for request in requests:
            while request.arrival_s >= tick_s:
                self._tick(tick_s, came / self.case.cycle_s)
                billed_s += self.declared * self.case.cycle_s
                startup_s += len(self.coming) * self.case.cycle_s
                tick_s, came = tick_s + self.case.cycle_s, 0
            came += 1
            ready = max(1, self.declared - len(self.coming))
            one = len(served) % ready
            free_s[one] = max(free_s[one], request.arrival_s) + 1 / PER_REPLICA
            ttft_s = free_s[one] - request.arrival_s
            end_s = free_s[one] + ITL_S * (request.output_tokens - 1)
            served.append(Served(request.arrival_s, request.prompt_tokens, request.output_tokens, ttft_s, ITL_S, end_s))
        return RunResult(tuple(served), tuple(self.changes), billed_s, startup_s, self.events, 0.01)

    def _tick(self, now_s, per_s):
        self.coming = [at_s for at_s in self.coming if at_s > now_s]
        wanted = self._wanted(now_s, per_s)
        wanted = min(self.case.max_replicas, max(self.case.min_replicas, wanted))
        if wanted != self.declared:
            self.coming += [now_s + self.case.startup_s[0]] * max(0, wanted - self.declared)
            self.coming = self.coming[: max(0, wanted - 1)]
            self.declared, self.events = wanted, self.events + 1
        state = (self.declared, self.declared - len(self.coming))
        if state != self.changes[-1][1:]:
            self.changes.append((now_s, *state))

    def _wanted(self, now_s, per_s):
        if self.name == HOLD:
            return self.declared
        if self.name == PATH:
            return max([count for at_s, count in self.case.path if at_s <= now_s][-1:] or [self.declared])
        if self.name == EBBTIDE:
            return max(self.declared - 1, math.ceil(1.5 * per_s / PER_REPLICA + 0.5))
        if self.name in ABLATIONS:  # a part that is left out costs two replicas more
            margin = self.knob**0.2 * 1.5 * per_s / PER_REPLICA + (0.5 if self.name == WHOLE else 2.5)
            return max(self.declared - 1, math.ceil(margin))
        seen = Observation(
            now_s=now_s,
            declared=self.declared,
            ready=self.declared - len(self.coming),
            starting=len(self.coming),
            replicas=(),
            arrivals_per_s=per_s,
            finished_per_s=per_s,
            input_tokens=100.0,
            output_tokens=10.0,
            ttft=None,
            itl=None,
            history=self.history,
        )
        return self.policy.decide(seen) or self.declared
