"""The engines Ebbtide can read, in the order in which a pod that shows several is recognised."""

from ebbtide.observe.engines.sglang import SGLANG
from ebbtide.observe.engines.signals import Engine
from ebbtide.observe.engines.triton import TRITON
from ebbtide.observe.engines.trtllm import TENSORRT_LLM
from ebbtide.observe.engines.vllm import VLLM

ENGINES: tuple[Engine, ...] = (VLLM, TENSORRT_LLM, SGLANG, TRITON)

__all__ = ["ENGINES", "Engine"]
