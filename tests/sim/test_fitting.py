"""The fit finds the engine behind the scrapes, and says what a load did not show."""

import random

import msgspec
import pytest

from ebbtide.errors import ConfigurationError
from ebbtide.sim.engine import Engine, Request
from ebbtide.sim.fitting import Fit, Totals, fit
from ebbtide.sim.leastsquares import Row, nonnegative, robust
from ebbtide.sim.profiles import EngineProfile
from ebbtide.sim.tables import StepTimes
from tests.sim.known import KNOWN, LIMITS


def requests(phases: list[tuple[float, float]], seed: int) -> list[Request]:
    """Poisson arrivals, `(seconds, per second)` one phase after the other."""
    draw, found, begin_s = random.Random(seed), [], 0.0
    for seconds, per_second in phases:
        t_s = begin_s + draw.expovariate(per_second)
        while t_s < begin_s + seconds:
            found.append(Request(len(found), t_s, draw.randint(10, 500), draw.randint(20, 120)))
            t_s += draw.expovariate(per_second)
        begin_s += seconds
    return found


def scrapes(profile: EngineProfile, stream: list[Request], until_s: float) -> list[Totals]:
    """One a second, of an emulated engine."""
    engine, found, sent = Engine(profile, 3), [], 0
    for second in range(int(until_s)):
        while sent < len(stream) and stream[sent].arrival_s <= second:
            engine.submit(stream[sent], stream[sent].arrival_s)
            sent += 1
        engine.advance(float(second))
        found.append(totals(engine, float(second)))
    return found


def totals(engine: Engine, at_s: float) -> Totals:
    meters, itl = engine.meters, engine.itl
    return Totals(
        at_s=at_s,
        running=engine.running,
        waiting=engine.waiting,
        kv_usage=engine.kv_usage,
        iterations=engine.iteration_tokens.count,
        gaps=itl.count,
        gap_s=itl.sum,
        first_tokens=meters.ttft.count,
        first_token_s=meters.ttft.sum,
        prompt_tokens=engine.counters.prompt_tokens,
    )


@pytest.fixture(scope="module")
def found() -> Fit:
    stream = requests([(60.0, 0.25), (40.0, 1.0), (40.0, 2.0), (40.0, 4.0)], seed=1)
    return fit(scrapes(KNOWN, stream, 200.0), LIMITS)


@pytest.mark.parametrize("decoding", [1, 3, 6, 10, 16])
@pytest.mark.parametrize("prompt", [0, 60, 200])
def test_a_known_engine_is_found_again(found: Fit, decoding: int, prompt: int) -> None:
    true, fitted = (
        StepTimes(profile.steps, 16, LIMITS.kv_tokens, 0.0, 1).iteration_s(decoding, 300.0 * decoding, prompt, 0)
        for profile in (KNOWN, found.profile)
    )
    assert fitted == pytest.approx(true, rel=0.06)


def test_limits_and_the_frontend_are_found_too(found: Fit) -> None:
    assert found.profile.max_num_seqs == 16
    assert found.profile.kv_tokens == LIMITS.kv_tokens
    assert found.profile.frontend_s == pytest.approx(KNOWN.frontend_s, abs=0.006)
    assert 0.0 < found.profile.jitter < 0.1
    assert found.typical_error < 0.05


def test_a_slower_engine_is_not_found_to_be_the_same() -> None:
    """The fit follows the scrapes, not its own ideas: everything twice as slow is found twice as slow."""
    slow = msgspec.structs.replace(
        KNOWN,
        steps=msgspec.structs.replace(
            KNOWN.steps,
            decode_ms=tuple((batch, 2.0 * ms) for batch, ms in KNOWN.steps.decode_ms),
            prefill_ms=tuple((tokens, 2.0 * ms) for tokens, ms in KNOWN.steps.prefill_ms),
        ),
    )
    stream = requests([(300.0, 0.1), (60.0, 0.6), (60.0, 2.0)], seed=2)
    fitted = fit(scrapes(slow, stream, 450.0), LIMITS).profile
    times = StepTimes(fitted.steps, 16, LIMITS.kv_tokens, 0.0, 1)
    assert times.iteration_s(8, 3000.0, 128, 0) == pytest.approx(2.0 * (0.031 + 0.045) + 0.0012, rel=0.1)


def test_a_load_that_never_filled_the_batch_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no request ever waited"):
        fit(scrapes(KNOWN, requests([(60.0, 0.3)], seed=1), 80.0), LIMITS)


def test_a_load_without_quiet_moments_is_refused_with_what_was_seen() -> None:
    with pytest.raises(ConfigurationError, match=r"and 0 a request that came alone; at least 30 and 5"):
        fit(scrapes(KNOWN, requests([(60.0, 6.0)], seed=1), 80.0)[2:60], LIMITS)


def test_coefficients_that_would_be_negative_are_zero_and_the_others_make_the_best_of_it() -> None:
    rows = [Row((1.0, x), 5.0 - 0.5 * x) for x in (0.0, 1.0, 2.0)]
    assert nonnegative(rows) == pytest.approx([4.5, 0.0])
    assert nonnegative([Row((1.0, x), 2.0 + 3.0 * x) for x in (0.0, 1.0, 4.0)]) == pytest.approx([2.0, 3.0])


def test_a_moment_in_which_the_machine_stood_still_does_not_count_for_much() -> None:
    rows = [Row((1.0, x), 2.0 + 3.0 * x + (-0.01) ** (x % 2)) for x in range(20)]
    stalled = [*rows, Row((1.0, 10.0), 400.0)]
    assert robust(stalled)[1] == pytest.approx(robust(rows)[1], abs=0.3)
    assert abs(nonnegative(stalled)[0] - nonnegative(rows)[0]) > 1.0
