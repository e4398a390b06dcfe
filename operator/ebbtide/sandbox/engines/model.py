"""Makes a tiny language model for a real engine: configuration and tokenizer, no weights, no download.

The engine fills in random weights (`--load-format dummy`), so the answers are nonsense and everything else is real:
scheduling, KV cache, streaming, metrics. The same size always gives the same bytes. Everything is our own: the
tokenizer is a byte-level BPE, trained here on a short text, so that it fits whatever version the engine brings.
"""

import itertools
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebbtide.errors import ConfigurationError

MAX_POSITION_TOKENS = 2048
TOKENS = 340

_SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")
_VOCABULARY = 384  # TOKENS rounded up to a multiple of 64, as matrix kernels like it
_SPLIT_PATTERN = " ?[a-z]+| ?[^ a-z]+| +"
_TEXT = """
a request waits in the queue until the engine has room for it, and then its prompt is read in one step or in several.
each step after that gives one token to every request that runs, so a step takes longer when more of them run together.
the cache keeps what the engine has read and written, and when the cache is full the last request has to wait again.
a replica that is starting carries nothing, a replica that is ending carries what it has, and the others carry the rest.
"""
_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@dataclass(frozen=True)
class Size:
    """Dimensions of a Llama model; heads are 32 (tiny) or 64 wide, half as many for keys and values."""

    hidden: int
    intermediate: int
    layers: int
    heads: int


SIZES = {"tiny": Size(128, 256, 2, 4), "small": Size(512, 1536, 8, 8)}


def tiny_model(directory: Path, size: str = "tiny") -> Path:
    """Write the model's files into the folder (made if need be) and answer it.

    Output tokens per second of one server with one compute thread, at 1 and at 16 requests of 200 tokens, measured on
    2 cores that were busy with other work as well (so these are lower bounds): tiny 336 and 1272, small 23 and 445.
    ConfigurationError for a size that does not exist.
    """
    if size not in SIZES:
        raise ConfigurationError(f"model size {size!r}: allowed are {', '.join(SIZES)}")
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in _files(SIZES[size]).items():
        (directory / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return directory


def _files(size: Size) -> dict[str, Any]:
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.heads // 2,
        "head_dim": size.hidden // size.heads,
        "vocab_size": _VOCABULARY,
        "max_position_embeddings": MAX_POSITION_TOKENS,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        **ids,
    }
    tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "model_max_length": MAX_POSITION_TOKENS,
        "clean_up_tokenization_spaces": False,
        "chat_template": _CHAT_TEMPLATE,
    }
    return {
        "config.json": config,
        "generation_config.json": ids,
        "tokenizer_config.json": tokenizer,
        "tokenizer.json": _tokenizer(),
    }


def _tokenizer() -> dict[str, Any]:
    alphabet = byte_alphabet()
    merges = trained_merges(_TEXT, TOKENS - len(_SPECIAL) - len(alphabet))
    tokens = [*_SPECIAL, *sorted(alphabet), *("".join(pair) for pair in merges)]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": _SPLIT_PATTERN}, "behavior": "Isolated", "invert": False}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, "content": token, **plain} for number, token in enumerate(_SPECIAL)],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": [list(pair) for pair in merges],
        },
    }


def byte_alphabet() -> list[str]:
    """One visible character for each of the 256 bytes, in the order of the bytes, as byte-level BPE has them.

    Bytes that print stand for themselves; the others get the characters from 256 on: the space, 32, becomes 'Ġ'.
    """
    printing = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printing else chr(next(others)) for byte in range(256)]


def trained_merges(text: str, count: int) -> list[tuple[str, str]]:
    """The `count` merges of the most frequent neighbours, each found after the one before it was applied.

    Of equally frequent pairs the alphabetically first wins, so that the answer depends on the text alone.
    """
    alphabet = byte_alphabet()
    words = Counter(f" {word}" if number else word for line in text.split("\n") for number, word in _numbered(line))
    pieces = {word: [alphabet[byte] for byte in word.encode()] for word in words}
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in pieces.items():
            for pair in itertools.pairwise(parts):
                pairs[pair] += words[word]
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        pieces = {word: _merged(parts, best) for word, parts in pieces.items()}
    return merges


def _numbered(line: str) -> list[tuple[int, str]]:
    return list(enumerate(line.replace(",", "").replace(".", "").split()))


def _merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    joined: list[str] = []
    for part in parts:
        if joined and (joined[-1], part) == pair:
            joined[-1] += part
        else:
            joined.append(part)
    return joined
