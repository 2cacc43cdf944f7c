"""The kinds of requests that are mixed, and what is right as an answer to each."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from packager.quantize import text

Check = Callable[[Any], bool]


def _any(_: Any) -> bool:
    return True


@dataclass(frozen=True)
class Asked:
    """`right` judges the parsed answer of a request that is to end with `status`.

    `repeatable`: the answer ought to be the same each time. `leave_after` so many pieces of a stream the client goes.
    """

    kind: str
    body: Any
    status: int = 200
    right: Check = _any
    repeatable: bool = False
    leave_after: int | None = None

    @property
    def key(self) -> str:
        """Of requests whose answers ought to be the same, streamed or not."""
        return json.dumps({name: value for name, value in self.body.items() if name != "streaming"}, sort_keys=True)


_TEXT = text.evaluation()
_QUESTIONS = (
    "What is a mistral?",
    "Name three fruits.",
    "Why is the sky blue?",
    "Write a haiku about rain.",
)
_GREEDY = {"temperature": 0.0}
_SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green", "blue"]}, "count": {"type": "integer", "maximum": 99}},
    "required": ["colour", "count"],
    "additionalProperties": False,
}
_STOPS = [".", "\n"]
_BAD: tuple[dict[str, Any], ...] = (
    {},
    {"prompt": ""},
    {"prompt": "x", "temperature": -1.0},
    {"prompt": "x", "max_new_tokens": 10**6},
    {"prompt": "word " * 4000},
    {"prompt": "x", "maxtokens": 3},
    {"prompt": "x", "streaming": True, "n": 2},
    {"prompt": "x", "messages": []},
    {"prompt": "x", "regex": "("},
)


def _chat(question: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}]}


def _passage(random: Random, characters: int) -> str:
    """One of three, so that they are met again."""
    start = random.randrange(3) * 2000
    return _TEXT[start : start + characters]


def short(random: Random) -> Asked:
    body = {**_chat(random.choice(_QUESTIONS)), **_GREEDY, "max_new_tokens": 24}
    return Asked("short", body, repeatable=True)


def streamed(random: Random) -> Asked:
    return Asked("streamed", {**short(random).body, "streaming": True}, right=bool, repeatable=True)


def long(random: Random) -> Asked:
    return Asked("long", {"prompt": _passage(random, 1300), **_GREEDY, "max_new_tokens": 48}, repeatable=True)


def shared_prefix(random: Random) -> Asked:
    question = f"{_passage(random, 800)}\n\nQuestion {random.randrange(10**6)}:"
    return Asked("shared prefix", {"prompt": question, **_GREEDY, "max_new_tokens": 32})


def left(random: Random) -> Asked:
    body = {**_chat(random.choice(_QUESTIONS)), "max_new_tokens": 300, "ignore_eos": True, "streaming": True}
    return Asked("left", body, leave_after=random.randint(1, 8))


def stopped(random: Random) -> Asked:
    body = {**_chat(random.choice(_QUESTIONS)), "stop": _STOPS, "max_new_tokens": 64}
    return Asked("stop strings", body, right=lambda answer: not any(stop in answer["output"] for stop in _STOPS))


def several(random: Random) -> Asked:
    sampling = {"temperature": 0.8, "seed": random.randrange(2), "n": 3, "max_new_tokens": 24}
    body = {**_chat(_QUESTIONS[0]), **sampling}
    return Asked("n=3, seeded", body, right=lambda answer: len(answer["outputs"]) == 3, repeatable=True)


def guided(random: Random) -> Asked:
    body = {**_chat("Describe a ball in JSON."), "json_schema": _SCHEMA, "max_new_tokens": 64}
    return Asked("json_schema", {**body, "seed": random.getrandbits(32)}, right=_fits_schema)


def logprobs(random: Random) -> Asked:
    body = {**_chat(random.choice(_QUESTIONS)), "logprobs": 3, "max_new_tokens": 16}
    return Asked("logprobs", body, right=lambda answer: all(told["logprob"] <= 0 for told in answer["logprobs"]))


def urgent(random: Random) -> Asked:
    body = {"prompt": _passage(random, 400), "priority": random.randint(-5, 5), "max_new_tokens": 48}
    return Asked("priority", {**body, "seed": random.getrandbits(32), "top_p": 0.9})


def late(random: Random) -> Asked:
    body = {**_chat(random.choice(_QUESTIONS)), "timeout": random.uniform(0.01, 0.2), "max_new_tokens": 500}
    return Asked("timeout", {**body, "ignore_eos": True}, status=504)


def bad(random: Random) -> Asked:
    return Asked("bad input", random.choice(_BAD), status=400)


_WEIGHTS = {
    short: 4,
    streamed: 4,
    long: 4,
    shared_prefix: 3,
    left: 3,
    stopped: 2,
    several: 2,
    guided: 2,
    logprobs: 2,
    urgent: 2,
    late: 2,
    bad: 2,
}


def one(random: Random) -> Asked:
    """A request of some kind."""
    kind: Callable[[Random], Asked] = random.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
    return kind(random)


def repeatable() -> list[Asked]:
    """Every request whose answer ought to be the same each time, once."""
    random = Random(0)
    drawn = (kind(random) for kind in (short, long, several) for _ in range(200))
    return list({asked.key: asked for asked in drawn}.values())


def _fits_schema(answer: Any) -> bool:
    try:
        found = json.loads(answer["output"])
    except ValueError:
        return False
    return set(found) == {"colour", "count"} and found["colour"] in ("red", "green", "blue")
