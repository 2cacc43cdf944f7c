"""Tokenizers rebuilt from GGUF metadata."""

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoTokenizer

from packager.checkpoint import open_checkpoint
from packager.checkpoint.vocabulary import sentencepiece_merges
from packager.errors import TrtpackError
from tests.packager.checkpoint.ggufs import write_gguf
from tests.tiny import make_checkpoint, make_tokenizer

TEXTS = [
    "the quick brown fox",
    " leading  and  double",
    "Hello 2024,\n\n\tünïcödé 日本 👩‍👩‍👧",
    "<|im_start|>user\nhi<|im_end|>",
]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("llama", tmp_path_factory.mktemp("llama"))


def written(folder: Path, out: Path, **options: Any) -> Path:
    """The tokenizer folder of a GGUF made of the checkpoint in `folder`."""
    out.mkdir(exist_ok=True)
    write_gguf(out / "model.gguf", folder, **options)
    open_checkpoint("model.gguf", out).write_tokenizer(out)
    return out


def tokenizer(folder: Path, out: Path, **metadata: Any) -> Tokenizer:
    given = {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}
    return Tokenizer.from_file(str(written(folder, out, metadata=given) / "tokenizer.json"))


@pytest.mark.parametrize("text", TEXTS)
def test_encodes_like_the_original_and_decodes_back(text: str, llama: Path, tmp_path: Path) -> None:
    ours, theirs = tokenizer(llama, tmp_path), make_tokenizer()
    ids = ours.encode(text).ids
    assert ids == theirs(text)["input_ids"]
    assert ours.decode(ids, skip_special_tokens=False) == text


def test_special_tokens_stay_whole_and_can_be_skipped(llama: Path, tmp_path: Path) -> None:
    ours = tokenizer(llama, tmp_path)
    ids = ours.encode("<|im_start|>the<|im_end|>").ids
    assert (ids[0], ids[-1]) == (1, 2)
    assert ours.decode(ids) == "the"


def test_transformers_loads_the_folder_with_its_chat_template(llama: Path, tmp_path: Path) -> None:
    loaded = AutoTokenizer.from_pretrained(written(llama, tmp_path))
    chat = [{"role": "user", "content": "the fox"}]
    expected = make_tokenizer().apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert loaded.apply_chat_template(chat, add_generation_prompt=True, return_dict=False) == expected
    assert (loaded.bos_token, loaded.eos_token) == ("<|im_start|>", "<|im_end|>")


def test_without_a_chat_template_none_is_written(llama: Path, tmp_path: Path) -> None:
    assert not (written(llama, tmp_path, drop=("tokenizer.chat_template",)) / "chat_template.jinja").exists()


def test_bos_and_eos_are_added_where_the_file_says_so(llama: Path, tmp_path: Path) -> None:
    plain = tokenizer(llama, tmp_path / "a").encode("the").ids
    assert tokenizer(llama, tmp_path / "b", add_bos_token=True).encode("the").ids == [1, *plain]
    both = tokenizer(llama, tmp_path / "c", add_bos_token=True, add_eos_token=True)
    assert both.encode("the").ids == [1, *plain, 2]
    assert both.encode("the", add_special_tokens=False).ids == plain


def digits(folder: Path, out: Path, pre: str, text: str) -> list[str]:
    """Tokens of `text` with a vocabulary that also knows 12, 123, 'T and Ġ1, were they ever one word."""
    base = make_tokenizer()
    tokens = sorted(base.get_vocab(), key=base.get_vocab().__getitem__)
    merges = ["1 2", "12 3", "Ġ 1", "' T"]
    given = {
        "pre": pre,
        "tokens": [*tokens, "12", "123", "Ġ1", "'T"],
        "token_type": [3, 3, 3] + [1] * (len(tokens) + 1),
        "merges": merges,
    }
    return list(tokenizer(folder, out, **given).encode(text).tokens)


@pytest.mark.parametrize(
    ("pre", "text", "expected"),
    [
        ("default", "1234", ["123", "4"]),
        ("default", " 1", ["Ġ1"]),
        ("smollm", "1234", ["1", "2", "3", "4"]),
        ("smollm", " 1", ["Ġ", "1"]),
        ("qwen2", "1234", ["1", "2", "3", "4"]),
        ("qwen2", "A'T", ["A", "'T"]),
        ("llama-bpe", "1234", ["123", "4"]),
        ("llama-bpe", " 1", ["Ġ", "1"]),
        ("llama-bpe", "A'T", ["A", "'T"]),
        ("default", "A'T", ["A", "'", "T"]),
        ("tekken", "1234", ["1", "2", "3", "4"]),
        ("tekken", "A'T", ["A", "'T"]),
    ],
)
def test_splits_text_as_its_kind_does(pre: str, text: str, expected: list[str], llama: Path, tmp_path: Path) -> None:
    assert digits(llama, tmp_path, pre, text) == expected


def test_whole_tokens_need_no_merges(llama: Path, tmp_path: Path) -> None:
    """Llama 3 takes a word that is a token as that token, though no merge leads to it."""
    whole = tokenizer(llama, tmp_path / "a", pre="llama-bpe", merges=[]).encode("the").tokens
    merged = tokenizer(llama, tmp_path / "b", pre="qwen2", merges=[]).encode("the").tokens
    assert (whole, merged) == (["the"], ["t", "h", "e"])


def test_qwen2_composes_characters_first(llama: Path, tmp_path: Path) -> None:
    ours = tokenizer(llama, tmp_path, pre="qwen2")
    assert ours.encode("e\u0301").ids == ours.encode("\u00e9").ids


def test_an_unknown_pre_tokenizer_is_refused(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(TrtpackError, match=r"pre-tokenizer 'klingon' is not supported; supported: .*smollm"):
        tokenizer(llama, tmp_path, pre="klingon")


def test_an_unknown_model_is_refused(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(TrtpackError, match="tokenizer 'bert' is not supported"):
        tokenizer(llama, tmp_path, model="bert")


PIECES = ["▁", "h", "e", "l", "o", "w", "r", "d", "he", "ll", "hell", "hello", "▁hello", "▁w", "or", "▁wor", "ld"]


def sentencepiece(folder: Path, out: Path, **metadata: Any) -> Tokenizer:
    """A scored vocabulary as of Llama 2: specials, 256 bytes, then pieces, longer ones later and so less likely."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES]
    given = {
        "model": "llama",
        "tokens": tokens,
        "scores": [0.0] * 259 + [-float(index) for index in range(len(PIECES))],
        "token_type": [2, 3, 3] + [6] * 256 + [1] * len(PIECES),
        "unknown_token_id": 0,
        **metadata,
    }
    drop = ("tokenizer.ggml.pre", "tokenizer.ggml.merges", "tokenizer.ggml.add_bos_token")
    added = {f"tokenizer.ggml.{key}": value for key, value in given.items()}
    written(folder, out, metadata=added, drop=tuple(key for key in drop if key not in added))
    return Tokenizer.from_file(str(out / "tokenizer.json"))


def test_sentencepiece(llama: Path, tmp_path: Path) -> None:
    ours = sentencepiece(llama, tmp_path)
    assert ours.encode("hello world").tokens == ["<s>", "▁hello", "▁wor", "ld"]
    for text in ("hello world", "hello  é 日", "</s>"):
        ids = ours.encode(text, add_special_tokens=False).ids
        assert ours.decode(ids, skip_special_tokens=False) == text
    assert ours.encode("é", add_special_tokens=False).tokens == ["▁", "<0xC3>", "<0xA9>"]
    assert ours.encode("hello</s>").ids[-1] == 2


def test_sentencepiece_without_a_space_in_front(llama: Path, tmp_path: Path) -> None:
    ours = sentencepiece(llama, tmp_path, add_space_prefix=False, add_bos_token=False)
    assert ours.encode("hello").tokens == ["hello"]
    assert ours.decode(ours.encode(" hello").ids) == " hello"


def test_merges_come_by_score_then_by_pieces() -> None:
    vocab = {"a": 0, "b": 1, "c": 2, "ab": 3, "bc": 4, "abc": 5}
    scores = [0.0, 0.0, 0.0, -2.0, -1.0, -3.0]
    assert sentencepiece_merges(vocab, scores) == [("b", "c"), ("a", "b"), ("a", "bc"), ("ab", "c")]


def test_pre_tokenizers_keep_every_byte(llama: Path, tmp_path: Path) -> None:
    alphabet = set(ByteLevel.alphabet())
    for pre in ("default", "smollm", "qwen2", "llama-bpe", "tekken"):
        ours = tokenizer(llama, tmp_path / pre, pre=pre)
        text = " It's 3,141.59 €\r\n\r\n  x\t… 'TIS"
        encoded = ours.encode(text)
        assert ours.decode(encoded.ids) == text, pre
        assert all(set(token) <= alphabet for token in encoded.tokens)
