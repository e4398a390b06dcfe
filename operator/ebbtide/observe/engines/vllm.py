"""vLLM, from 0.6 to today. New names first; the old ones went away between 0.9 and 0.16."""

from ebbtide.observe.engines.signals import Counter, Engine, Gauge, Histogram, metrics

VLLM = Engine(
    name="vLLM",
    signals={
        Gauge.RUNNING: metrics("vllm:num_requests_running"),
        # The total, not only those that wait for capacity: arrivals are counted by what is inside.
        Gauge.WAITING: metrics("vllm:num_requests_waiting"),
        Gauge.KV_USAGE: metrics("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
        Counter.FINISHED: metrics("vllm:request_success_total"),
        Counter.PROMPT_TOKENS: metrics("vllm:prompt_tokens_total"),
        Counter.GENERATION_TOKENS: metrics("vllm:generation_tokens_total"),
        Counter.REJECTED: metrics("vllm:admission_rejections_total"),
        Counter.PREEMPTED: metrics("vllm:num_preemptions_total"),
        Histogram.TTFT: metrics("vllm:time_to_first_token_seconds"),
        Histogram.ITL: metrics("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"),
        Histogram.TPOT: metrics("vllm:request_time_per_output_token_seconds"),
    },
    # rejections are counted since 0.32, and only with a queue limit; the per-request time exists since 0.11
    optional=frozenset({Counter.REJECTED, Counter.PREEMPTED, Histogram.TPOT}),
    info="vllm:cache_config_info",
)
