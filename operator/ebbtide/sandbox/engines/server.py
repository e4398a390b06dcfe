"""How a vLLM server of the engine environment is started: command line and environment variables, nothing else.

What the caller must decide itself: the address (`--host`, `--port`) and how the server ends (`--shutdown-timeout N`
lets running requests finish within N seconds of SIGTERM; without it vLLM aborts them and answers 200).
"""

from collections.abc import Sequence
from pathlib import Path

from ebbtide.errors import ConfigurationError
from ebbtide.sandbox.engines.environment import EngineEnvironment
from ebbtide.sandbox.engines.model import MAX_POSITION_TOKENS


def vllm_command(env: EngineEnvironment, model: Path, *, flags: Sequence[str] = ()) -> list[str]:
    """`vllm serve MODEL` with random weights; `flags` come last and so win over the ones given here.

    The model answers to the name of its folder.
    """
    ours = {
        "--served-model-name": model.name,
        "--load-format": "dummy",
        "--dtype": "bfloat16",
        "--max-model-len": str(MAX_POSITION_TOKENS),
        "--max-num-seqs": "16",
    }
    program = [str(env.python), str(env.directory / "bin" / "vllm"), "serve", str(model)]
    # eager: no compilation, which a model of this size would never earn back
    return [*program, *(f"{name}={value}" for name, value in ours.items()), "--enforce-eager", *flags]


def vllm_environment(kv_cache_gib: int = 1, threads: int = 1) -> dict[str, str]:
    """Variables for a server without network and usage reports, with `kv_cache_gib` GiB of KV cache.

    `threads` compute on whichever cores are free. That is right for several replicas on few cores: vLLM's own choice
    binds each replica to the same ones, and more threads than free cores wait for each other in busy loops.
    ConfigurationError when either is below 1.
    """
    for name, value in (("kv_cache_gib", kv_cache_gib), ("threads", threads)):
        if value < 1:
            raise ConfigurationError(f"{name} is {value}: allowed are whole numbers from 1 on")
    return {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_CPU_KVCACHE_SPACE": str(kv_cache_gib),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(threads),
    }
