"""TensorRT-LLM's own server (trtllm-serve). The prefix was `trtllm:` in some builds.

Its gauges move only while iterations run: an idle server may show the last busy moment for ever.
"""

from ebbtide.observe.engines.signals import Counter, Engine, Gauge, Histogram, Metric, metrics


def _both(name: str) -> tuple[Metric, ...]:
    return metrics(f"trtllm_{name}", f"trtllm:{name}")


TENSORRT_LLM = Engine(
    name="TensorRTLLM",
    signals={
        Gauge.RUNNING: _both("num_requests_running"),
        Gauge.WAITING: _both("num_requests_waiting"),
        Gauge.MAX_RUNNING: _both("max_num_active_requests"),
        Gauge.KV_USAGE: _both("kv_cache_utilization"),
        Gauge.KV_BLOCKS: _both("kv_cache_max_blocks"),
        Gauge.KV_BLOCK_TOKENS: _both("kv_cache_tokens_per_block"),
        Counter.FINISHED: _both("request_success_total"),
        Counter.PROMPT_TOKENS: _both("prompt_tokens_total"),
        Counter.GENERATION_TOKENS: _both("generation_tokens_total"),
        Histogram.TTFT: _both("time_to_first_token_seconds"),
        # Published per request only: it stands for both, weighted by requests where a gap would be by tokens.
        Histogram.ITL: _both("time_per_output_token_seconds"),
        Histogram.TPOT: _both("time_per_output_token_seconds"),
    },
    gauges_freeze_when_idle=True,
)
