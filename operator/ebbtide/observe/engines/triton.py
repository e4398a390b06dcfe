"""Triton with the TensorRT-LLM backend.

Read from the backend model `tensorrt_llm`: an ensemble around it counts every request a second time. There are no token
counters and no time per output token; the first-response histogram must be switched on and is in milliseconds.
"""

from ebbtide.observe.engines.signals import Counter, Engine, Gauge, Histogram, Metric

_BACKEND = (("model", "tensorrt_llm"),)


def _requests(kind: str) -> Metric:
    return Metric("nv_trt_llm_request_metrics", (("request_type", kind),))


def _blocks(kind: str) -> Metric:
    return Metric("nv_trt_llm_kv_cache_block_metrics", (("kv_cache_block_type", kind),))


TRITON = Engine(
    name="Triton",
    signals={
        Gauge.RUNNING: (_requests("scheduled"), _requests("active")),
        Gauge.WAITING: (_requests("waiting"),),
        Gauge.MAX_RUNNING: (_requests("max"),),
        Gauge.KV_USAGE: (_blocks("fraction"),),
        Gauge.KV_BLOCKS: (_blocks("max"),),
        Gauge.KV_BLOCK_TOKENS: (_blocks("tokens_per"),),
        Counter.FINISHED: (Metric("nv_inference_request_success", _BACKEND),),
        Counter.REJECTED: (Metric("nv_inference_request_failure", (*_BACKEND, ("reason", "REJECTED"))),),
        Histogram.TTFT: (Metric("nv_inference_first_response_histogram_ms", _BACKEND, scale=0.001),),
    },
    optional=frozenset({Counter.REJECTED, Histogram.TTFT}),
)
