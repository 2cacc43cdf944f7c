"""A real .gguf: SmolLM2-135M-Instruct, as llama.cpp wrote it."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from packager.checkpoint import Checkpoint, open_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf: Path) -> Checkpoint:
    return open_checkpoint(str(smollm2_gguf), Path())


@pytest.fixture(scope="module")
def folder(smollm2: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tokenizer")
    smollm2.write_tokenizer(out)
    return out


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def test_its_shape(smollm2: Checkpoint) -> None:
    model = smollm2.model
    assert (model.num_layers, model.hidden_size, model.num_heads, model.num_kv_heads) == (30, 576, 9, 3)
    assert (model.rope.theta, model.rms_norm_eps, model.max_position_embeddings) == (100000.0, 1e-5, 8192)
    assert model.tie_word_embeddings
    assert smollm2.config["eos_token_id"] == [2]


def test_its_chat_template_gives_the_published_ids(folder: Path) -> None:
    from transformers import AutoTokenizer

    chat = [{"role": "user", "content": "What is a mistral?"}]
    loaded = AutoTokenizer.from_pretrained(folder)
    ids = loaded.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    system = [1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407, 19712, 8182]
    assert ids[: len(system)] == system
    assert ids[-4:] == [1, 520, 9531, 198]
    assert ids.count(2) == 2


@pytest.mark.parametrize(
    "text", ["Hello 2024!  It's 1,234.56 €\n\n\tdone", " leading", "日本語 👩\u200d👩\u200d👧", "<|im_end|>x"]
)
def test_text_comes_back(text: str, tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_special_tokens_and_digits(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("<|im_end|>").ids == [2]
    assert tokenizer.encode("2024").tokens == ["2", "0", "2", "4"]


@pytest.mark.slow
def test_it_speaks_english(smollm2: Checkpoint, tokenizer: Tokenizer) -> None:
    """Through transformers' own model, so that only what this checkpoint reads is on trial."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**{key: value for key, value in smollm2.config.items() if key != "architectures"})
    model = LlamaForCausalLM(config)
    missing = model.load_state_dict({name: smollm2.get(name) for name in smollm2.shapes}, strict=False)
    assert missing.missing_keys == ["lm_head.weight"]  # tied
    assert not missing.unexpected_keys
    prompt = torch.tensor([tokenizer.encode("The capital of France is").ids])
    out = model.generate(prompt, max_new_tokens=6, do_sample=False)
    assert "Paris" in tokenizer.decode(out[0].tolist())
