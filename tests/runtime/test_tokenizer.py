import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from runtime.errors import EngineError, InputError
from runtime.tokenizer import Tokenizer
from tests.tiny import make_tokenizer

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "the fox?"}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_tokenizer().save_pretrained(tmp_path)
    return tmp_path


def reference(folder: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(folder)


def test_chat_equals_transformers(folder: Path) -> None:
    want = reference(folder).apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
    assert Tokenizer(folder, 512).chat(MESSAGES) == want


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m['content'] }}{% endfor %}",
        "{{ messages[0] | tojson }}",
        "{% generation %}{{ messages[1]['content'] }}{% endgeneration %}",
        "{{ bos_token }}{% set ns = namespace(x=1) %}{{ ns.x }}\n    {% if true %}\n a{% endif %}",
    ],
)
def test_templates_use_what_transformers_offers(folder: Path, template: str) -> None:
    (folder / "chat_template.jinja").write_text(template)
    want = reference(folder).apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
    assert Tokenizer(folder, 512).chat(MESSAGES) == want


def test_encode_and_decode(folder: Path) -> None:
    tokenizer = Tokenizer(folder, 512)
    ids = tokenizer.encode("the lazy dog 🦊")
    assert tokenizer.decode([1, *ids, 2]) == "the lazy dog 🦊"


def test_a_text_beyond_all_bounds_is_refused_before_it_is_split(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer(folder, 512)
    monkeypatch.setattr(tokenizer, "_fast", None)
    with pytest.raises(InputError, match="it has 1000000 characters; max_model_len is 512 tokens, at most"):
        tokenizer.encode("x" * 1_000_000)


def test_a_template_can_refuse(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(InputError, match="roles must alternate"):
        Tokenizer(folder, 512).chat(MESSAGES)


def test_a_template_cannot_reach_python(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages.__class__.__mro__ }}")
    with pytest.raises(InputError, match="refused"):
        Tokenizer(folder, 512).chat(MESSAGES)


def test_without_a_template_messages_are_refused(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": None}))
    tokenizer = Tokenizer(folder, 512)
    assert not tokenizer.has_chat_template
    with pytest.raises(InputError, match="no chat template; send prompt"):
        tokenizer.chat(MESSAGES)


@pytest.mark.parametrize(
    ("name", "content"),
    [("tokenizer.json", "{"), ("tokenizer_config.json", "{"), ("chat_template.jinja", "{% for %}")],
)
def test_a_broken_file_is_named(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(EngineError, match=name if name.endswith("json") else "chat template"):
        Tokenizer(folder, 512)
