"""Random adapters of the tiny checkpoints, made and merged by PEFT: what ours are compared with."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make_adapter(checkpoint: Path, folder: Path, seed: int = 0, **settings: Any) -> Path:
    """Saves a random adapter, strong enough to change what is generated; `settings` are fields of PEFT's LoraConfig."""
    torch.manual_seed(seed)
    fields = {"r": 4, "lora_alpha": 8, "target_modules": ALL, "init_lora_weights": False, **settings}
    model = peft.get_peft_model(plain(checkpoint), peft.LoraConfig(**fields))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.normal_(0.0, 0.2)
    model.save_pretrained(str(folder))
    return folder


def merged(checkpoint: Path, adapter: Path) -> Any:
    """The checkpoint's model with the adapter's product added to its weights."""
    return peft.PeftModel.from_pretrained(plain(checkpoint), str(adapter)).merge_and_unload()


def edit(folder: Path, **settings: Any) -> Path:
    """Changes fields of adapter_config.json."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    return folder


def edit_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> Path:
    """Changes the tensors in place."""
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    return folder


def plain(checkpoint: Path) -> Any:
    """The checkpoint's model, in float32."""
    return transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
