"""A tokenizer from a GGUF file's metadata, written as Hugging Face writes one.

Token types and pre-tokenizer names are llama.cpp's (src/llama-vocab.cpp). We build on the tokenizers library
rather than through transformers' private GGUF loader, which moves between releases and lacks SmolLM's digits rule.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from packager.checkpoint import json_file
from packager.checkpoint.tokenizer import CHAT_TEMPLATE, TOKENIZER, TOKENIZER_CONFIG
from packager.errors import TrtpackError

Meta = Mapping[str, Any]
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4
_SPACE = "\u2581"

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_GPT2 = ("default", "gpt-2")
_DIGITS = ("smollm",)
_SPLITS = {
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3"), _LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), _QWEN2),
    "tekken": _TEKKEN,
}
# Vocabularies whose tokens are matched whole before merging (`ignore_merges` in their own tokenizer.json).
_WHOLE = {"llama3", "llama-v3", "llama-bpe", "falcon3", "tekken"}


def write(path: Path, meta: Meta, folder: Path) -> None:
    """Writes the tokenizer of the .gguf at `path` into `folder`; raises TrtpackError for a kind not supported."""
    build(path, meta).save(str(folder / TOKENIZER))
    json_file.write(folder / TOKENIZER_CONFIG, _config(meta))
    if template := meta.get("tokenizer.chat_template"):
        (folder / CHAT_TEMPLATE).write_text(template, encoding="utf-8")


def build(path: Path, meta: Meta) -> Tokenizer:
    """The tokenizer; encoding adds BOS and EOS where the file says so. Raises TrtpackError."""
    kind = meta.get("tokenizer.ggml.model")
    builders = {"gpt2": _byte_level, "llama": _sentencepiece}
    if kind not in builders or not meta.get("tokenizer.ggml.tokens"):
        raise TrtpackError(f"{path}: GGUF tokenizer {kind!r} is not supported; supported: {', '.join(builders)}")
    tokenizer = builders[kind](path, meta)
    for token, token_type in zip(_tokens(meta), meta.get("tokenizer.ggml.token_type") or (), strict=False):
        if token_type in (_UNKNOWN, _CONTROL, _USER_DEFINED):
            tokenizer.add_tokens([AddedToken(token, normalized=False, special=token_type != _USER_DEFINED)])
    _add_ends(tokenizer, meta)
    return tokenizer


def _byte_level(path: Path, meta: Meta) -> Tokenizer:
    pre = meta.get("tokenizer.ggml.pre", "default")
    merges = [tuple(merge.split(" ")) for merge in meta.get("tokenizer.ggml.merges", ())]
    model = models.BPE(vocab=_vocab(meta), merges=merges, ignore_merges=pre in _WHOLE)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = _pre_tokenizer(path, pre)
    tokenizer.decoder = decoders.ByteLevel()
    if pre in ("qwen2", "deepseek-r1-qwen"):
        tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def _pre_tokenizer(path: Path, pre: str) -> Any:
    if pre in _GPT2:
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if pre in _DIGITS:
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    if pre in _SPLITS:
        split = pre_tokenizers.Split(Regex(_SPLITS[pre]), behavior="isolated")
        return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    supported = ", ".join(sorted({*_GPT2, *_DIGITS, *_SPLITS}))
    raise TrtpackError(
        f"{path}: GGUF pre-tokenizer {pre!r} is not supported; supported: {supported}",
        "Compile the Hugging Face checkpoint that the file was made from.",
    )


def _sentencepiece(path: Path, meta: Meta) -> Tokenizer:
    tokens, vocab = _tokens(meta), _vocab(meta)
    unknown = tokens[meta.get("tokenizer.ggml.unknown_token_id", 0)]
    merges = sentencepiece_merges(vocab, meta["tokenizer.ggml.scores"])
    model = models.BPE(vocab=vocab, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    prefix = meta.get("tokenizer.ggml.add_space_prefix", True)
    spaces = normalizers.Replace(" ", _SPACE)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces]) if prefix else spaces
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    return tokenizer


def sentencepiece_merges(vocab: Mapping[str, int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """The merges a scored vocabulary implies: every way to cut a token into two others, best score first.

    As in transformers' SentencePieceExtractor: of one token's cuts, the one with the earlier pieces comes first.
    """
    merges: list[tuple[float, int, int, tuple[str, str]]] = []
    for token, index in vocab.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocab and right in vocab:
                merges.append((-scores[index], vocab[left], vocab[right], (left, right)))
    return [merge for *_, merge in sorted(merges)]


def _add_ends(tokenizer: Tokenizer, meta: Meta) -> None:
    """Makes encoding add the BOS and EOS the file asks for; a sentencepiece file that is silent wants BOS."""
    tokens, pair = _tokens(meta), []
    for name, default in (("bos", meta["tokenizer.ggml.model"] == "llama"), ("eos", False)):
        index: int | None = meta.get(f"tokenizer.ggml.{name}_token_id")
        wanted = meta.get(f"tokenizer.ggml.add_{name}_token", default)
        pair.append((tokens[index], index) if wanted and index is not None else None)
    first, last = pair
    if not (first or last):
        return
    single = [*([first[0]] if first else []), "$A", *([last[0]] if last else [])]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=[p for p in pair if p])


def _config(meta: Meta) -> dict[str, Any]:
    tokens = _tokens(meta)
    ids = {
        "bos_token": meta.get("tokenizer.ggml.bos_token_id"),
        "eos_token": meta.get("tokenizer.ggml.eos_token_id"),
        "unk_token": meta.get("tokenizer.ggml.unknown_token_id"),
        "pad_token": meta.get("tokenizer.ggml.padding_token_id"),
    }
    sentencepiece = meta["tokenizer.ggml.model"] == "llama"
    return {
        **{name: tokens[index] for name, index in ids.items() if index is not None},
        "add_bos_token": meta.get("tokenizer.ggml.add_bos_token", sentencepiece),
        "add_eos_token": meta.get("tokenizer.ggml.add_eos_token", False),
        "clean_up_tokenization_spaces": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def _tokens(meta: Meta) -> list[str]:
    tokens: list[str] = meta["tokenizer.ggml.tokens"]
    return tokens


def _vocab(meta: Meta) -> dict[str, int]:
    return {token: index for index, token in enumerate(_tokens(meta))}
