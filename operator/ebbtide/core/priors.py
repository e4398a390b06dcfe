"""What is believed about a replica before it was watched: a declared rate, a table by accelerator and model size, or a
cautious default that says so.

The table describes continuous batching as ITL = a + b x N for an 8B model on one GPU with 1024 prompt and 256 output
tokens. Other sizes scale with the weights each GPU must read: 70B over four H100 is 17.5B a GPU, a = 6.0 x 17.5/8 =
13 ms where 14.5 was modelled. The operator's own measurements replace it within minutes of traffic.
"""

from dataclasses import dataclass

REFERENCE_BILLION = 8.0
LEAST_BILLION = 0.001
REFERENCE_INPUT, REFERENCE_OUTPUT = 1024.0, 256.0
PREFILL_SHARE = 2.0 / 3.0  # of the slope: prefill that peers bring in while a request decodes; the rest reads its cache


@dataclass(frozen=True, slots=True)
class Roofline:
    """8B in 16 bits on one GPU: ITL = a_ms + b_ms x N, and milliseconds of prefill per 1000 prompt tokens."""

    a_ms: float
    b_ms: float
    prefill_ms: float


# Longer names first: "L40S" must not be taken for "L4", nor "A100" for "A10".
_TABLE: tuple[tuple[str, Roofline], ...] = (
    ("GB200", Roofline(3.4, 0.066, 30.0)),
    ("B300", Roofline(3.4, 0.060, 30.0)),
    ("B200", Roofline(3.4, 0.066, 30.0)),
    ("H200", Roofline(4.8, 0.122, 40.0)),
    ("H100", Roofline(6.0, 0.135, 40.0)),
    ("MI300X", Roofline(7.0, 0.150, 45.0)),
    ("A100", Roofline(11.2, 0.350, 78.0)),
    ("L40S", Roofline(22.0, 0.510, 80.0)),
    ("A10G", Roofline(30.0, 1.200, 200.0)),
    ("A10", Roofline(32.0, 1.300, 210.0)),
    ("L4", Roofline(58.0, 1.500, 230.0)),
    ("T4", Roofline(75.0, 3.000, 500.0)),
)
_UNKNOWN = Roofline(30.0, 1.2, 200.0)  # as slow as an A10G


@dataclass(frozen=True, slots=True)
class Prior:
    """ITL = a_s + b_s x N at the reference lengths, prefill seconds a prompt token, and where it came from."""

    a_s: float
    b_s: float
    prefill_s_per_token: float
    source: str  # "table" or "assumed"
    text: str


def prior_for(accelerator: str, parameters_billion: float | None, gpus: int | None) -> Prior:
    """The belief about one replica of `gpus` GPUs. Unknown hardware or size: cautious, and `text` says which."""
    name = accelerator.upper()
    found = next(((key, line) for key, line in _TABLE if key in name), None)
    key, line = found or ("", _UNKNOWN)
    count = max(1, gpus or 1)
    billion = parameters_billion if parameters_billion is not None else REFERENCE_BILLION * count
    billion = max(LEAST_BILLION, billion)  # a model that costs nothing would carry anything
    # Tensor parallelism costs about 3 % a doubling in communication (70B on four H100: 10 % over the plain scaling).
    scale = billion / count / REFERENCE_BILLION * (1.0 + 0.03 * (count.bit_length() - 1))
    source = "table" if found and parameters_billion is not None else "assumed"
    known = f"{key or accelerator or 'unknown accelerator'} x{count}, " + (
        f"{parameters_billion:g}B parameters" if parameters_billion is not None else "model size not declared"
    )
    return Prior(line.a_ms * scale / 1e3, line.b_ms * scale / 1e3, line.prefill_ms * scale / 1e6, source, known)


def shares(input_tokens: float, output_tokens: float) -> tuple[float, float]:
    """(KV cache of a request in the batch, prompt tokens for each token put out), relative to the reference lengths."""
    cache = (input_tokens + 0.5 * output_tokens) / (REFERENCE_INPUT + 0.5 * REFERENCE_OUTPUT)
    return cache, input_tokens / output_tokens / (REFERENCE_INPUT / REFERENCE_OUTPUT)


def length_shape(input_tokens: float, output_tokens: float) -> float:
    """How much one more request in the batch is believed to cost, relative to the reference lengths.

    1024/256 gives 1; 2048/64 gives 5.9: code completion is almost all prefill.
    """
    return shape_of(*shares(input_tokens, output_tokens))


def shape_of(cache: float, prompts: float) -> float:
    """The same of the two parts that make it up."""
    return PREFILL_SHARE * prompts + (1.0 - PREFILL_SHARE) * cache
