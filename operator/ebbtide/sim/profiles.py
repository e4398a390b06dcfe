"""What an emulated engine can do, by model size, accelerator and engine.

Numbers follow published performance models (prompts of 1024 tokens, outputs of 256): mean inter-token latency at 1 to
256 concurrent requests is met within about a quarter. H200 and B200 with 70B, L4 and A10G are scaled from their
neighbours by memory bandwidth. They exist to put load on an operator, not to size a purchase.
"""

from collections.abc import Mapping

import msgspec

from ebbtide.errors import ConfigurationError
from ebbtide.sim.tables import StepTables, Table


class EngineProfile(msgspec.Struct, frozen=True):
    """One engine replica: its speed, its memory and its limits.

    `frontend_s` is the constant time of HTTP, tokeniser and detokeniser on the way to a first token; `spread` the
    largest relative deviation of one pod from the tables; `jitter` the relative standard deviation of one iteration;
    `stall_every` the mean number of iterations between stalls of several iterations' length (0: none);
    `max_queued_requests` refuses requests beyond it (None: never).
    """

    model: str
    accelerator: str
    engine: str
    gpus: int
    steps: StepTables
    kv_tokens: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_tokens: int = 32_768
    kv_block_tokens: int = 16
    frontend_s: float = 0.02
    spread: float = 0.05
    jitter: float = 0.03
    stall_every: int = 4000
    max_queued_requests: int | None = None


class _Row(msgspec.Struct, frozen=True):
    """decode_ms at `_BATCHES`; prefill_ms of a 1024-token prompt beside running decodes; KV read per 1000 tokens."""

    gpus: int
    decode_ms: tuple[float, ...]
    prefill_ms: float
    kv_ms: float
    frontend_ms: float
    kv_tokens: int
    max_num_seqs: int
    max_num_batched_tokens: int


_BATCHES = (1, 8, 32, 64, 128, 256)

_ROWS: Mapping[tuple[str, str], _Row] = {
    ("8B", "H100"): _Row(1, (6.1, 6.3, 7.1, 7.9, 8.4, 12.1), 14.0, 0.049, 32, 416_000, 1024, 8192),
    ("8B", "H200"): _Row(1, (4.8, 5.0, 5.8, 6.6, 8.5, 13.7), 13.0, 0.034, 31, 845_000, 1024, 8192),
    ("8B", "B200"): _Row(1, (3.4, 3.4, 3.8, 4.3, 5.1, 7.6), 7.0, 0.021, 29, 1_118_000, 1024, 16384),
    ("8B", "A100"): _Row(1, (11.6, 12.1, 13.8, 14.4, 18.2, 29.2), 49.0, 0.082, 36, 416_000, 256, 2048),
    ("8B", "L40S"): _Row(1, (21.5, 21.9, 25.1, 25.8, 28.0, 40.0), 61.0, 0.190, 28, 192_000, 256, 2048),
    ("8B", "A10G"): _Row(1, (30.5, 31.5, 36.0, 37.5, 41.0, 60.0), 122.0, 0.273, 30, 40_000, 256, 2048),
    ("8B", "L4"): _Row(1, (57.0, 58.0, 63.0, 66.0, 72.0, 100.0), 180.0, 0.546, 30, 40_000, 256, 2048),
    ("70B", "H100"): _Row(4, (14.6, 15.9, 16.3, 18.0, 21.5, 31.0), 53.0, 0.031, 72, 431_000, 1024, 8192),
    ("70B", "H200"): _Row(4, (11.5, 12.4, 13.2, 14.9, 18.6, 28.0), 51.0, 0.021, 70, 1_117_000, 1024, 8192),
    ("70B", "B200"): _Row(4, (8.2, 8.8, 9.4, 10.6, 13.1, 19.0), 27.0, 0.013, 60, 1_550_000, 1024, 16384),
    ("70B", "A100"): _Row(4, (26.5, 29.2, 30.6, 32.1, 39.5, 61.0), 164.0, 0.051, 76, 431_000, 256, 2048),
}

# relative cost of a chunk, 1024 tokens = 1; small chunks ride along with the weights that are read anyway
_PREFILL_SHAPE: Table = (
    *((0, 0.0), (64, 0.05), (128, 0.14), (256, 0.28), (512, 0.53), (1024, 1.0)),
    *((2048, 1.96), (4096, 3.9), (8192, 8.0), (16384, 16.8)),
)
_BATCH_STEPS: Table = (
    *((1, 1.0), (9, 1.05), (17, 0.99), (33, 1.07), (49, 1.0), (65, 1.09), (97, 1.01), (129, 1.10), (193, 1.0)),
    *((257, 1.12), (385, 1.05), (513, 1.20)),  # beyond 512 no captured graph fits
)
_PREFILL_DEPTH: Table = ((0, 1.0), (4096, 1.05), (8192, 1.13), (32768, 1.6), (131072, 3.4))
_INTERFERENCE: Table = ((0, 0.9), (1, 1.0), (33, 1.03), (97, 1.0), (129, 1.06))

# the label nvidia.com/gpu.product as GPU feature discovery writes it -> row
_PRODUCTS: Mapping[str, str] = {
    "NVIDIA-H100-80GB-HBM3": "H100",
    "NVIDIA-H200": "H200",
    "NVIDIA-B200": "B200",
    "NVIDIA-A100-SXM4-80GB": "A100",
    "NVIDIA-A100-80GB-PCIe": "A100",
    "NVIDIA-L40S": "L40S",
    "NVIDIA-A10G": "A10G",
    "NVIDIA-L4": "L4",
}

_ENGINES = ("vllm", "trtllm")


def known_profiles() -> tuple[tuple[str, str], ...]:
    """Every (model size, product label) that `profile` accepts."""
    return tuple(
        (model, product) for model, row in _ROWS for product, accelerator in _PRODUCTS.items() if accelerator == row
    )


def profile(model: str, accelerator: str, engine: str = "vllm") -> EngineProfile:
    """The profile of `model` ("8B") on `accelerator` ("NVIDIA-L40S") under `engine` ("vllm" or "trtllm").

    70B runs on four GPUs. Raises ConfigurationError that names the value and what is known.
    """
    if engine not in _ENGINES:
        raise ConfigurationError(f"emulated engine {engine!r} is unknown; known: {', '.join(_ENGINES)}")
    row = _ROWS.get((model, _PRODUCTS.get(accelerator, "")))
    if row is None:
        known = "; ".join(f"{size} on {product}" for size, product in known_profiles())
        raise ConfigurationError(f"no emulated engine for model size {model!r} on {accelerator!r}; known: {known}")
    return _build(row, model, accelerator, engine)


def _build(row: _Row, model: str, accelerator: str, engine: str) -> EngineProfile:
    tensorrt = engine == "trtllm"
    # a compiled engine decodes a little faster and starts with a smaller batch limit
    speed = 0.94 if tensorrt else 1.0
    return EngineProfile(
        model=model,
        accelerator=accelerator,
        engine=engine,
        gpus=row.gpus,
        steps=_tables(row, speed),
        kv_tokens=row.kv_tokens,
        max_num_seqs=min(row.max_num_seqs, 256) if tensorrt else row.max_num_seqs,
        max_num_batched_tokens=8192 if tensorrt else row.max_num_batched_tokens,
        kv_block_tokens=32 if tensorrt else 16,
        frontend_s=row.frontend_ms / 1000,
    )


def _tables(row: _Row, speed: float) -> StepTables:
    return StepTables(
        decode_ms=tuple((batch, speed * ms) for batch, ms in zip(_BATCHES, row.decode_ms, strict=True)),
        kv_read_ms=((0, 0.0), (50_000, 49 * row.kv_ms), (200_000, 200 * row.kv_ms), (400_000, 412 * row.kv_ms)),
        prefill_ms=tuple((tokens, row.prefill_ms * share) for tokens, share in _PREFILL_SHAPE),
        batch_steps=_BATCH_STEPS,
        prefill_depth=_PREFILL_DEPTH,
        interference=_INTERFERENCE,
    )
