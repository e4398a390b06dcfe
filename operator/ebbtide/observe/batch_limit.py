"""How many requests vLLM lets run at once: its metrics do not say so, its pod template may (`--max-num-seqs`).

What the template does not show stays unknown, and so does a value that vLLM would refuse: nothing is guessed.
"""

from collections.abc import Sequence
from itertools import pairwise

import msgspec

from ebbtide.model.snapshot import EngineReadings
from ebbtide.model.spec import EngineType
from ebbtide.observe.drain import command_words, engine_container
from ebbtide.observe.projections import TemplateContainer

FLAG = "--max-num-seqs"
_PARALLEL = ("--data-parallel", "-dp")  # several engines in one pod, each with that many of its own
_VLLM = EngineType.VLLM.value


def most_running(containers: Sequence[TemplateContainer]) -> float | None:
    """By the engine's command line; None where it is not there, is no whole number above 0, or is one of several."""
    if not any("max" in text and "seqs" in text for container in containers for text in _texts(container)):
        return None  # of 10,000 templates few have it: reading their words takes a hundred times as long
    engine = engine_container(containers)
    words = command_words(engine) if engine is not None else []
    said = [value for word, following in pairwise([*words, ""]) if (value := _value(word, following))]
    if not said or any(word.replace("_", "-").startswith(_PARALLEL) for word in words):
        return None
    last = said[-1]  # it counts, as for vLLM
    return float(last) if last.isdecimal() and int(last) > 0 else None


def with_limit(engine: EngineReadings | None, most: float | None) -> EngineReadings | None:
    """The readings with what the template says, for a vLLM that does not say it itself."""
    if engine is None or most is None or engine.max_running is not None or engine.engine != _VLLM:
        return engine
    return msgspec.structs.replace(engine, max_running=most)


def _texts(container: TemplateContainer) -> tuple[str, ...]:
    values = tuple(variable.value for variable in container.env or () if variable.value is not None)
    return (*(container.command or ()), *(container.args or ()), *values)


def _value(word: str, following: str) -> str:
    """What the flag is set to, if this word is the flag: `?` where nothing follows; else empty."""
    name, equals, value = word.partition("=")
    if name.replace("_", "-") != FLAG:
        return ""
    return (value if equals else following) or "?"
