"""Whether a scale-down cuts streams off: vLLM aborts them on SIGTERM unless `--shutdown-timeout` gives them time.

Says False only where the pod template proves it. Engines that drain by themselves have no such condition, and nothing
here ever holds a replica: it names the misconfiguration before it costs an answer.
"""

from ebbtide.core.work import Draft, VariantDraft
from ebbtide.model.plan import Condition, ConditionStatus
from ebbtide.model.reasons import Code
from ebbtide.model.spec import EngineType

TYPE = "EngineDrains"
END_S = 10.0  # vLLM itself needs about so long to end after its last request
ADVISED_TIMEOUT_S, ADVISED_SLEEP_S, MARGIN_S = 120.0, 15.0, 15.0
_VLLM = EngineType.VLLM.value
_RANK = (Code.ENGINE_NOT_DRAINING, Code.DRAIN_NOT_SHOWN, Code.ENGINE_DRAINS)
_STATUS = {
    Code.ENGINE_NOT_DRAINING: ConditionStatus.FALSE,
    Code.DRAIN_NOT_SHOWN: ConditionStatus.UNKNOWN,
    Code.ENGINE_DRAINS: ConditionStatus.TRUE,
}


def condition(draft: Draft) -> Condition | None:
    """The condition over all vLLM variants, the worst first; None without any."""
    found = [_judge(variant) for variant in draft.variants if variant.state.target.exists and _is_vllm(variant)]
    if not found:
        return None
    found.sort(key=lambda each: _RANK.index(each[0]))
    code = found[0][0]
    return Condition(TYPE, _STATUS[code], code.value, "; ".join(text for each, text in found if each is code))


def _is_vllm(variant: VariantDraft) -> bool:
    if variant.spec.engine is not None:
        return variant.spec.engine.type is EngineType.VLLM
    engines = {pod.engine.engine for pod in variant.state.pods if pod.engine is not None}
    return _VLLM in engines if engines else variant.state.target.shutdown_timeout_s is not None


def _judge(variant: VariantDraft) -> tuple[Code, str]:
    name, target = variant.spec.name, variant.state.target
    timeout_s, sleep_s, grace_s = target.shutdown_timeout_s, target.pre_stop_s, target.termination_grace_s
    if timeout_s is None or sleep_s is None or grace_s is None:
        return Code.DRAIN_NOT_SHOWN, f"{name}: {_hidden(timeout_s, sleep_s)}"
    if timeout_s <= 0.0:
        return Code.ENGINE_NOT_DRAINING, f"{name}: {_cut(sleep_s)}"
    needed_s = sleep_s + timeout_s + END_S
    sums = f"preStop sleep {sleep_s:g}s + --shutdown-timeout {timeout_s:g}s + {END_S:g}s to end"
    if grace_s <= needed_s:
        return Code.ENGINE_NOT_DRAINING, (
            f"{name}: terminationGracePeriodSeconds is {grace_s:g}, not more than {sums}: streams that still run "
            f"by then are killed; set it to {sleep_s + timeout_s + MARGIN_S:g}"
        )
    late = "" if sleep_s else "; a preStop sleep would keep requests away that are sent to it while it drains"
    text = f"{name}: streams in flight have {timeout_s:g}s to finish ({sums}, of {grace_s:g}s){late}"
    return Code.ENGINE_DRAINS, text


def _cut(sleep_s: float) -> str:
    """What happens without a timeout, and the cure in numbers."""
    kept_s = sleep_s or ADVISED_SLEEP_S
    when = f"{sleep_s:g}s after its pod is told to go (preStop)" if sleep_s else "when its pod is told to go"
    return (
        f"vLLM runs without --shutdown-timeout, so each scale-down cuts off the streams that still run {when}; start "
        f"it with --shutdown-timeout={ADVISED_TIMEOUT_S:g} (vLLM 0.18 or newer), a preStop sleep of {kept_s:g}s and "
        f"terminationGracePeriodSeconds: {kept_s + ADVISED_TIMEOUT_S + MARGIN_S:g}"
    )


def _hidden(timeout_s: float | None, sleep_s: float | None) -> str:
    if timeout_s is None:
        return (
            "the pod template does not show whether --shutdown-timeout is set (a script, a config file, a variable or "
            "the image may set it); without it vLLM cuts streams off when its pod is told to go"
        )
    if sleep_s is None:
        return "its preStop is more than a sleep, so how long its streams have to finish cannot be told"
    return "its pod template does not show terminationGracePeriodSeconds"
