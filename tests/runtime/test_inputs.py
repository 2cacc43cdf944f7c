from typing import Any

import pytest

from runtime.errors import InputError
from runtime.inputs import parse


def test_a_prompt_with_every_field() -> None:
    got = parse(
        {
            "prompt": "hi",
            "max_new_tokens": 3,
            "temperature": 1,
            "top_k": 5,
            "top_p": 0.5,
            "seed": -1,
            "stop": ["a", "b"],
            "streaming": True,
            "streaming_interval": 4,
        }
    )
    assert (got.max_new_tokens, got.temperature, got.stop, got.streaming_interval) == (3, 1.0, ["a", "b"], 4)


def test_openai_spellings_and_a_single_stop_string() -> None:
    got = parse({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, "stream": True, "stop": "x"})
    assert (got.max_new_tokens, got.streaming, got.stop) == (3, True, ["x"])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "either prompt or messages"),
        ({"prompt": "a", "messages": [{"role": "user", "content": "b"}]}, "either prompt or messages"),
        (["prompt"], "expected an object with prompt or messages, got list"),
        ("text", "expected an object"),
        (None, "expected an object"),
        ({"prompt": 3}, "prompt: .*string.*got 3"),
        ({"prompt": "\ud83d"}, "half of a surrogate pair"),
        ({"messages": []}, "messages: .*at least 1 item"),
        ({"messages": [{"role": "user"}]}, "messages.0.content: .*required"),
        ({"messages": "hi"}, "messages: .*list"),
        ({"prompt": "a", "max_new_tokens": 0}, "max_new_tokens: .*greater than or equal to 1.*got 0"),
        ({"prompt": "a", "max_new_tokens": "3"}, "max_new_tokens: .*integer.*got '3'"),
        ({"prompt": "a", "max_new_tokens": 2.5}, "max_new_tokens: .*integer"),
        ({"prompt": "a", "max_new_tokens": True}, "max_new_tokens: .*integer"),
        ({"prompt": "a", "max_new_tokens": 3, "max_tokens": 3}, "max_new_tokens and max_tokens are the same"),
        ({"prompt": "a", "temperature": -0.1}, "temperature: .*greater than or equal to 0"),
        ({"prompt": "a", "temperature": float("nan")}, "temperature: .*finite"),
        ({"prompt": "a", "temperature": float("inf")}, "temperature: .*finite"),
        ({"prompt": "a", "top_p": 0}, "top_p: .*greater than 0"),
        ({"prompt": "a", "top_p": 1.1}, "top_p: .*less than or equal to 1"),
        ({"prompt": "a", "top_k": -2}, "top_k: .*greater than or equal to -1"),
        ({"prompt": "a", "stop": [""]}, "stop.0: .*at least 1 character"),
        ({"prompt": "a", "streaming": "yes"}, "streaming: .*boolean"),
        ({"prompt": "a", "streaming_interval": 0}, "streaming_interval: "),
        ({"prompt": "a", "max_new_token": 3}, "unknown field 'max_new_token'; did you mean 'max_new_tokens'"),
        ({"prompt": "a", "zzz": 3}, "unknown field 'zzz'; known: prompt, messages"),
    ],
)
def test_wrong_input_is_named(inputs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(inputs)


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(InputError, match=r"temperature: .*; top_p: "):
        parse({"prompt": "a", "temperature": -1, "top_p": 2})
