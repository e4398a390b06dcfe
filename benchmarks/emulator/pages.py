"""A scrape of /metrics as data, whoever wrote it: the real engine or the emulated one."""

import re
from collections.abc import Iterator
from functools import cached_property

from ebbtide.sim.fitting import Limits, Totals

_SAMPLE = re.compile(r"^(vllm:\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

Labels = tuple[tuple[str, str], ...]


class Page:
    """What was read `at_s` seconds after the start of a load."""

    def __init__(self, at_s: float, text: str) -> None:
        self.at_s = at_s
        self.text = text

    @cached_property
    def series(self) -> dict[str, dict[Labels, float]]:
        """Values by labels, by name; only those of the engine."""
        found: dict[str, dict[Labels, float]] = {}
        for name, labels, value in _SAMPLE.findall(self.text):
            found.setdefault(name, {})[tuple(_LABEL.findall(labels))] = float(value)
        return found

    def total(self, name: str) -> float:
        """The sum over all series of the name; 0.0 where there is none yet."""
        return sum(self.series.get(name, {}).values())

    def label(self, name: str, label: str) -> str:
        """The value of a label of the first series of the name; KeyError where there is none."""
        return dict(next(iter(self.series[name])))[label]

    def buckets(self, name: str) -> Iterator[tuple[float, float]]:
        """(upper bound, observations at or below it), ascending."""
        rows = ((dict(labels)["le"], value) for labels, value in self.series.get(f"{name}_bucket", {}).items())
        return iter(sorted((float(bound), value) for bound, value in rows))


def totals(page: Page) -> Totals:
    """What the fit needs of a page."""
    return Totals(
        at_s=page.at_s,
        running=page.total("vllm:num_requests_running"),
        waiting=page.total("vllm:num_requests_waiting"),
        kv_usage=page.total("vllm:kv_cache_usage_perc"),
        iterations=page.total("vllm:iteration_tokens_total_count"),
        gaps=page.total("vllm:inter_token_latency_seconds_count"),
        gap_s=page.total("vllm:inter_token_latency_seconds_sum"),
        first_tokens=page.total("vllm:time_to_first_token_seconds_count"),
        first_token_s=page.total("vllm:time_to_first_token_seconds_sum"),
        prompt_tokens=page.total("vllm:prompt_tokens_total"),
    )


def limits(page: Page, max_num_batched_tokens: int, max_model_tokens: int) -> Limits:
    """The KV cache's size from its label; what no label says is from the flags."""
    block = int(page.label("vllm:cache_config_info", "block_size"))
    blocks = int(page.label("vllm:cache_config_info", "num_gpu_blocks"))
    return Limits(blocks * block, block, max_num_batched_tokens, max_model_tokens)
