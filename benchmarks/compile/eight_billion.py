"""A random Llama of 8B shape compiled for an L4, its weights made one tensor at a time, as JSON.

    python -m benchmarks.compile.eight_billion --out benchmarks/compile/eight_billion.json

Needs 17 GB of disk under $TMPDIR while it runs.
"""

import argparse
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from benchmarks import report
from benchmarks.compile.measure import PACKAGES, compiled
from packager.checkpoint import Checkpoint
from packager.config import EngineConfig

# Llama 3 8B's config.json.
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
}


class RandomCheckpoint(Checkpoint):
    """Holds no weight: each is made when it is asked for. `seconds` says how long that took."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__("random", config, _shapes(config))
        self.seconds = 0.0

    def get(self, name: str) -> torch.Tensor:
        started = monotonic()
        tensor = torch.empty(self.shapes[name], dtype=torch.bfloat16).uniform_(-0.03, 0.03)
        self.seconds += monotonic() - started
        return tensor

    def write_tokenizer(self, folder: Path) -> None:
        """None: nothing is generated with these weights."""


def _shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    keys = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    layer = {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "post_attention_layernorm": (hidden,),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    layers = {
        f"model.layers.{index}.{name}.weight": shape
        for index in range(config["num_hidden_layers"])
        for name, shape in layer.items()
    }
    return {
        "model.embed_tokens.weight": (vocab, hidden),
        **layers,
        "model.norm.weight": (hidden,),
        "lm_head.weight": (vocab, hidden),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", default="L4")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16"))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    checkpoint = RandomCheckpoint(CONFIG)
    config = EngineConfig(checkpoint="random", dtype=given.dtype)
    result = compiled(checkpoint, config, [given.gpu])
    result["seconds_making_random_weights"] = round(checkpoint.seconds, 1)
    command = f"python -m benchmarks.compile.eight_billion --gpu {given.gpu} --dtype {given.dtype}"
    report.write(command, result, given.out, PACKAGES)


if __name__ == "__main__":
    main()
