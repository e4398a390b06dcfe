"""Servers that do not answer any more: they hold GPUs, look alive to those who do not ask, and carry nothing.

Silence alone convicts nobody: a network policy, a wrong port or Prometheus itself may be the cause, so another pod of
the same template must answer. Must never be hasty: `/health` and scrapes are late under load, and engines take minutes
to load behind a pod that is Ready for want of a readiness probe.
"""

from ebbtide.core.startup import estimate_s
from ebbtide.core.work import Draft, VariantDraft
from ebbtide.model.snapshot import PodPhase, PodState

UNREADY_PATIENCE_S = 30.0  # three probes of 5 s that fail are 15 s
LEAST_LOADING_S = 120.0


def loads(variant: VariantDraft, pod: PodState, now_s: float) -> bool:
    """Ready for want of a readiness probe, while its engine does not listen yet: for twice the usual start-up."""
    if not _silent(pod) or pod.ready_at is None:
        return False
    usual_s, _ = estimate_s(variant.memory.capacity, None)
    return now_s - pod.ready_at < max(LEAST_LOADING_S, 2.0 * usual_s)


def note(variant: VariantDraft, now_s: float) -> None:
    """Fill the variant's pods that hang, and the words about the first."""
    others_answer = any(_answers(pod) for pod in variant.state.pods)
    hanging = [pod for pod in variant.state.pods if _unready(pod, now_s)]
    if others_answer:
        hanging += [pod for pod in variant.state.pods if _silent(pod) and not loads(variant, pod, now_s)]
    variant.hung = len(hanging)
    variant.hung_text = _words(hanging[0], now_s) if hanging else ""
    variant.hanging = frozenset(pod.name for pod in hanging)


def describe(draft: Draft) -> str:
    """The replicas that do not answer, in words; empty when all do."""
    return "; ".join(
        f"{variant.spec.name}: {variant.hung} of {variant.observed} replicas "
        f"{'does not answer and carries' if variant.hung == 1 else 'do not answer and carry'} nothing "
        f"({variant.hung_text})"
        for variant in draft.variants
        if variant.hung
    )


def _unready(pod: PodState, now_s: float) -> bool:
    return (
        pod.phase is PodPhase.NOT_READY and pod.unready_at is not None and now_s - pod.unready_at >= UNREADY_PATIENCE_S
    )


def _silent(pod: PodState) -> bool:
    """Workers of a group need not listen: their leader answers for them."""
    return pod.phase is PodPhase.READY and pod.unanswered and pod.serves


def _answers(pod: PodState) -> bool:
    return pod.phase is PodPhase.READY and not pod.unanswered and pod.engine is not None


def _words(pod: PodState, now_s: float) -> str:
    if pod.phase is PodPhase.NOT_READY and pod.unready_at is not None:
        return f"{pod.name} has not been ready for {now_s - pod.unready_at:.0f}s" + (
            f": {pod.message}" if pod.message else ""
        )
    return (
        f"{pod.name} is Ready, but no scrape of it is answered, while others of its template answer: readiness and "
        "liveness probes on /health would take it out of service and restart it"
    )
