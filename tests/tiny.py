"""Tiny random Hugging Face checkpoints, one a family: what the tests of every package compile, run and compare with."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PretrainedConfig, PreTrainedTokenizerFast

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
VOCAB = 320
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_TEXT = (
    "the quick brown fox jumps over the lazy dog and then the hen wonders whether anything further happened, "
    "as other animals gathered along the river, quietly listening for thunder from the northern mountains"
)
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "initializer_range": 0.2,  # wide enough that greedy tokens do not hang on the last bit
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_FAMILY: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 12},
    "qwen2": {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1},
    "qwen3": {"tie_word_embeddings": True},
}
_CLASSES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}


def make_config(family: str, **overrides: Any) -> PretrainedConfig:
    """The family's own config class at a tiny size; `overrides` are its fields."""
    config_class = getattr(transformers, f"{_CLASSES[family]}Config")
    config: PretrainedConfig = config_class(**{**_SHAPE, **_FAMILY[family], **overrides})
    return config


def make_checkpoint(family: str, folder: Path, **overrides: Any) -> Path:
    """Saves a random float32 checkpoint with its tokenizer into `folder`, the same weights each time; returns it.

    `family` is one of FAMILIES; `overrides` are fields of the family's config. `max_shard_size`, as of
    `save_pretrained`, may be among them. Norms and biases are random too, so that none can go unread.
    """
    shard_size = overrides.pop("max_shard_size", "5GB")
    torch.manual_seed(0)
    model_class = getattr(transformers, f"{_CLASSES[family]}ForCausalLM")
    model = model_class(make_config(family, **overrides)).to(torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                parameter.uniform_(-0.5, 0.5)
    model.generation_config.do_sample = False
    model.save_pretrained(folder, max_shard_size=shard_size)
    make_tokenizer().save_pretrained(folder)
    return folder


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of VOCAB tokens with ChatML's special tokens 0 to 2 and a chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=[AddedToken(token, normalized=False, special=True) for token in _SPECIAL],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_TEXT], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
