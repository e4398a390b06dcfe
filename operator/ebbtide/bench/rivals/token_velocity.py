"""llm-d's token velocity path (experimental): seconds of prefill in flight, and KV caches in use.

Source: llm-d, token velocity guide, as of autumn 2026. Desired is the greater of

    ceil(prompt tokens in flight, not yet computed / V_P / threshold)    V_P: prompt tokens/s of an idle replica
    ceil(sum of KV usage / 0.8)

through the HPA at its defaults. The guide measures V_P once (8192 tokens over the median TTFT when idle; 15,928 for
Qwen3-32B on two H100) and sets the threshold to the TTFT objective less the prompt's own prefill, cut to 60-70 % of
that; its example has 1.5 s. 60,000 tokens at 15,928 per second and 1.5 s are ceil(2.51) = 3 replicas. Empty: 0.
"""

from ebbtide.bench.case import Case
from ebbtide.bench.policy import Observation, Rival
from ebbtide.bench.rivals.hpa import PERIOD_S, Stage, average_value
from ebbtide.bench.rivals.parts import sensitivity, waiting

PUBLISHED_VELOCITY = 15928.0
KV_TARGET = 0.8
CUT = 0.65
LEAST_SHARE = 0.1  # of the objective: prompts longer than it allows leave no threshold at all


def threshold_s(ttft_s: float, input_tokens: float, velocity: float) -> float:
    """Seconds of prefill that one replica may have in flight: 3 s and 4000 tokens at 15,928/s give 1.79 s."""
    return max(LEAST_SHARE * ttft_s, CUT * (ttft_s - input_tokens / velocity))


class TokenVelocity:
    """The two counts; V_P is the fastest prefill seen while nothing waited."""

    period_s = PERIOD_S

    def __init__(self, case: Case, sensitivity: float) -> None:
        self._case, self._sensitivity = case, sensitivity
        self._velocity: float | None = None
        self._stage = Stage(case)

    def decide(self, seen: Observation) -> int | None:
        """The higher of both counts, stabilised."""
        self._learn(seen)
        velocity = self._velocity or PUBLISHED_VELOCITY
        in_flight = sum(replica.queued_prompt_tokens + replica.scheduled_prompt_tokens for replica in seen.replicas)
        seconds = self._sensitivity * in_flight / velocity
        allowed_s = threshold_s(self._case.ttft_s, seen.input_tokens or 0.0, velocity)
        kv_usage = self._sensitivity * sum(replica.kv_usage for replica in seen.replicas)
        prefill = average_value(seconds, allowed_s, seen.declared)
        decode = average_value(kv_usage, KV_TARGET, seen.declared)
        return self._stage.settle(seen.now_s, seen.declared, max(prefill, decode))

    def _learn(self, seen: Observation) -> None:
        if seen.ttft is None or not seen.input_tokens or seen.ttft.p50_s <= 0.0 or waiting(seen) > 0.0:
            return
        self._velocity = max(self._velocity or 0.0, seen.input_tokens / seen.ttft.p50_s)


RIVALS = (
    Rival(
        "token-velocity",
        sensitivity(0.05, 50.0),
        TokenVelocity,
        "V_P is not measured beforehand: the greatest mean prompt / median TTFT seen while nothing waited, "
        "15,928 until then; the threshold is the guide's rule for the case's own objective",
    ),
)
