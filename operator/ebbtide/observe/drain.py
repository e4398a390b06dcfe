"""How an engine ends, read from its pod template: vLLM's `--shutdown-timeout`, and the sleep before SIGTERM.

Must never take "not seen" for "not there": a start script, a config file, an unknown image or a variable may carry the
flag. Only a command line that starts vLLM and shows all of itself proves that the flag is missing.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ebbtide.observe.projections import EnvironmentVariable, StopHandler, TemplateContainer

FLAG = "--shutdown-timeout"
# $(NAME) is Kubernetes' own, $NAME and ${NAME} a shell's
_REFERENCE = re.compile(r"\$(?:\((\w+)\)|\{(\w+)\}|(\w+))")
_COMMENT = re.compile(r"(?:^|\s)#.*$", re.MULTILINE)
_MARKS = re.compile(r"[\"'\\;&|]+")  # quotes, continued lines and the ends of shell commands
_ENTRY_MODULE = "vllm.entrypoints."  # python -m vllm.entrypoints.openai.api_server
_OFFICIAL_IMAGE = re.compile(r"(?:^|/)vllm-openai[\w.-]*(?:[:@]|$)")  # its entrypoint is `vllm serve`
_SLEEP = re.compile(r"\s*(?:exec\s+)?(?:/usr)?(?:/bin/)?sleep\s+(\d+(?:\.\d+)?)s?\s*;?\s*")
_SHELLS = ("sh", "bash", "dash", "ash")


@dataclass(frozen=True, slots=True)
class Ending:
    """How a pod's engine ends, in seconds. `shutdown_timeout_s`: None: cannot be told, or not vLLM.

    `pre_stop_s`: how long preStop sleeps, 0 without one; None: it does something else, such as waiting for requests.
    """

    shutdown_timeout_s: float | None = None
    pre_stop_s: float | None = 0.0


def ending_of(containers: Sequence[TemplateContainer]) -> Ending:
    """Of the container that runs the engine: the one that names vLLM, else the one with GPUs, else the only one."""
    engine = engine_container(containers)
    if engine is None:
        return Ending()
    return Ending(_shutdown_timeout_s(engine), _pre_stop_s(engine.lifecycle.pre_stop if engine.lifecycle else None))


def variables_used(container: TemplateContainer) -> tuple[EnvironmentVariable, ...]:
    """Those of its variables that its command line refers to: the others say nothing about how it ends."""
    names = {name for match in _REFERENCE.finditer(_line(container)) for name in match.groups() if name}
    return tuple(variable for variable in container.env or () if variable.name in names)


def engine_container(containers: Sequence[TemplateContainer]) -> TemplateContainer | None:
    """The one that runs the engine; None where that cannot be told."""
    if len(containers) == 1:
        return containers[0]
    naming = [container for container in containers if _starts_vllm(container, command_words(container))]
    with_gpus = [container for container in containers if _has_devices(container)]
    for found in (naming, with_gpus):
        if len(found) == 1:
            return found[0]
    return None


def _has_devices(container: TemplateContainer) -> bool:
    asked = container.resources
    amounts = {**(asked.requests or {}), **(asked.limits or {})} if asked else {}
    return any("/" in name for name in amounts)  # extended resources have a domain


def _shutdown_timeout_s(container: TemplateContainer) -> float | None:
    words = command_words(container)
    said = [value for word, following in pairwise([*words, ""]) if (value := _value(word, following))]
    if said:
        return float(said[-1]) if said[-1].isdecimal() else None  # the last one counts, as for vLLM
    return 0.0 if _starts_vllm(container, words) and _shows_all(words) else None


def _value(word: str, following: str) -> str:
    """What the flag is set to, if this word is the flag: `?` where nothing follows; else empty."""
    name, equals, value = word.partition("=")
    if not name.startswith("--shutdown"):
        return ""
    if name.replace("_", "-") != FLAG:
        return "?"  # vLLM takes abbreviations
    return (value if equals else following) or "?"


def _starts_vllm(container: TemplateContainer, words: list[str]) -> bool:
    if any(word.startswith(_ENTRY_MODULE) for word in words):
        return True
    if any(one.rpartition("/")[2] == "vllm" and two == "serve" for one, two in pairwise(words)):
        return True
    return not container.command and _OFFICIAL_IMAGE.search(container.image or "") is not None


def _shows_all(words: list[str]) -> bool:
    """No word may stand for others: an unknown variable, a command's output, a file. `--host=$(POD_IP)` is one word."""
    return not any(word.startswith(("$", "`", "@")) or word.partition("=")[0] == "--config" for word in words)


def command_words(container: TemplateContainer) -> list[str]:
    """Command and arguments as words, with the variables that are known, without quotes and comments."""
    known = {variable.name: variable.value for variable in container.env or () if variable.value is not None}
    return _MARKS.sub(" ", _filled(_line(container), known)).split()


def _line(container: TemplateContainer) -> str:
    return " ".join(_COMMENT.sub("", part) for part in (*(container.command or ()), *(container.args or ())))


def _filled(line: str, known: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        name = next(group for group in match.groups() if group)
        return known.get(name, match.group())

    return _REFERENCE.sub(value, line)


def _pre_stop_s(handler: StopHandler | None) -> float | None:
    if handler is None:
        return 0.0
    if handler.sleep is not None:
        return handler.sleep.seconds
    words = handler.exec.command or () if handler.exec is not None else ()
    if len(words) == 3 and words[0].rpartition("/")[2] in _SHELLS and words[1] == "-c":
        words = words[2:]
    found = _SLEEP.fullmatch(" ".join(words))
    return float(found.group(1)) if found else None
