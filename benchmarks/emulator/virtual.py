"""The fitted emulator under the same requests, in virtual time, with a page of /metrics at each of the same moments."""

from collections.abc import Sequence

from benchmarks.emulator.pages import Page
from ebbtide.sim.engine import Engine
from ebbtide.sim.exposition import vllm_text
from ebbtide.sim.profiles import EngineProfile
from ebbtide.sim.requests import Outcome, Request


def play(
    profile: EngineProfile, requests: Sequence[Request], scrape_at_s: Sequence[float], seed: int = 1
) -> tuple[list[Outcome], list[Page]]:
    """Every request's outcome in the order of arrival, and a page for each of the moments."""
    engine, outcomes, pages = Engine(profile, seed), [], []
    coming = sorted(requests, key=lambda request: request.arrival_s)
    for at_s in scrape_at_s:
        while coming and coming[0].arrival_s <= at_s:
            request = coming.pop(0)
            engine.submit(request, request.arrival_s)
        outcomes += engine.advance(at_s)
        pages.append(Page(at_s, vllm_text(engine, "model", 0.0)))
    for request in coming:
        engine.submit(request, request.arrival_s)
    while (event_s := engine.next_event_s()) is not None:
        outcomes += engine.advance(event_s)
    return sorted(outcomes, key=lambda outcome: (outcome.request.arrival_s, outcome.request.id)), pages
