"""SGLang with `--enable-metrics`. A series may exist once for each tensor-parallel rank; the queries fold them."""

from ebbtide.observe.engines.signals import Counter, Engine, Gauge, Histogram, metrics

SGLANG = Engine(
    name="SGLang",
    signals={
        Gauge.RUNNING: metrics("sglang:num_running_reqs"),
        Gauge.WAITING: metrics("sglang:num_queue_reqs"),
        Gauge.KV_USAGE: metrics("sglang:token_usage"),
        Gauge.KV_TOKENS: metrics("sglang:max_total_num_tokens"),
        Counter.FINISHED: metrics("sglang:num_requests_total"),
        Counter.PROMPT_TOKENS: metrics("sglang:prompt_tokens_total"),
        Counter.GENERATION_TOKENS: metrics("sglang:generation_tokens_total"),
        Histogram.TTFT: metrics("sglang:time_to_first_token_seconds"),
        Histogram.ITL: metrics("sglang:inter_token_latency_seconds", "sglang:time_per_output_token_seconds"),
        Histogram.TPOT: metrics("sglang:request_time_per_output_token_seconds"),
    },
    optional=frozenset({Histogram.TPOT}),
)
