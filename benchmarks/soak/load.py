"""Clients that ask without pause, and a tally of what became of every request."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from time import monotonic
from typing import Any

import httpx

from benchmarks.soak import asked
from benchmarks.soak.asked import Asked
from benchmarks.soak.server import PREDICT
from packager import progress

LEFT = "left"
_MOST_PROBLEMS = 20
_TIMEOUT = 300  # seconds without a byte, after which a request counts as never answered


@dataclass
class Tally:
    """`outcomes`: by kind and HTTP status, or LEFT, or the name of an exception. `problems`: the first of them.

    `differences` counts answers that are not those of the quiet start, of `compared`.
    """

    sent: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrong: int = 0
    problems: list[str] = field(default_factory=list)
    compared: int = 0
    differences: int = 0

    def judge(self, sent: Asked, outcome: str, answer: Any, references: dict[str, Any]) -> None:
        """Exactly once for each request."""
        self.outcomes[sent.kind, outcome] += 1
        expected = outcome == str(sent.status) or (outcome == LEFT and sent.leave_after is not None)
        if not expected or (outcome == "200" and not sent.right(answer)):
            self.wrong += 1
            if len(self.problems) < _MOST_PROBLEMS:
                self.problems.append(f"{sent.kind}: {outcome}: {answer!r:.200}")
        elif sent.repeatable and (reference := references.get(sent.key)) is not None:
            self.compared += 1
            self.differences += answer != reference


async def ask(client: httpx.AsyncClient, sent: Asked) -> tuple[str, Any]:
    """The outcome, and the answer: of a stream {"output": text}, as if it had come whole."""
    try:
        if sent.body.get("streaming"):
            return await _stream(client, sent)
        response = await client.post(PREDICT, json=sent.body)
        return str(response.status_code), response.json()
    except (httpx.HTTPError, ValueError) as error:
        return type(error).__name__, str(error)


async def references(url: str) -> dict[str, Any]:
    """Every repeatable request's answer, asked alone."""
    answers: dict[str, Any] = {}
    every = asked.repeatable()
    async with _client(url) as client:
        with progress.task("Asking alone", len(every)) as advance:
            for sent in every:
                _, answers[sent.key] = await ask(client, sent)
                advance(1)
    return answers


async def run(url: str, seconds: float, clients: int, seed: int, known: dict[str, Any]) -> Tally:
    """`clients` that each ask one thing after another, until that many seconds are over and all is answered."""
    tally, end = Tally(), monotonic() + seconds

    async def client_of(number: int) -> None:
        random = Random(seed * clients + number)
        async with _client(url) as client:
            while monotonic() < end:
                sent = asked.one(random)
                tally.sent[sent.kind] += 1
                outcome, answer = await ask(client, sent)
                tally.judge(sent, outcome, answer, known)

    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(client_of(number))
    return tally


async def _stream(client: httpx.AsyncClient, sent: Asked) -> tuple[str, Any]:
    text, pieces = "", 0
    async with client.stream("POST", PREDICT, json=sent.body) as response:
        async for piece in response.aiter_text():
            text, pieces = text + piece, pieces + 1
            if pieces == sent.leave_after:
                return LEFT, text
    return str(response.status_code), {"output": text}


def _client(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=_TIMEOUT)
