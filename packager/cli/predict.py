"""`trtpack predict`: asks a running server, and streams its answer to the terminal."""

import json
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from urllib.parse import quote

import click
import httpx

from packager.errors import ConfigError, TrtpackError

_LOOPBACK = {"127.0.0.1", "::1", "localhost"}
_CONNECT_SECONDS = 10


@click.command()
@click.argument("prompt")
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, help="Where the server is.")
@click.option("--kube", "service", metavar="[NS/]NAME", help="Ask what trtpack deploy brought up, through the cluster.")
@click.option("--context", metavar="NAME", help="With --kube: of the kubeconfig; without it, the current one.")
@click.option("--model", metavar="NAME", default="model", show_default=True, help="The model's name in the URL.")
@click.option("--system", metavar="TEXT", help="A system message before the prompt.")
@click.option("--max-new-tokens", type=click.IntRange(1), help="The longest answer, in tokens.")
@click.option("--temperature", type=click.FloatRange(0), help="0 always takes the likeliest token.")
@click.option("--top-k", type=click.IntRange(0), help="Choose among the K likeliest tokens; 0 is off.")
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), help="Choose among this share; 1 is off.")
@click.option("--seed", type=int, help="The same seed gives the same answer.")
@click.option("--stop", multiple=True, help="Text to stop at; may be given more than once.")
@click.option("--raw", is_flag=True, help="Continue PROMPT as it is, without the chat template.")
@click.option("--json", "as_json", is_flag=True, help="Print the server's JSON.")
@click.option("--no-stream", is_flag=True, help="Print the answer when it is whole.")
def command(
    prompt: str,
    url: str,
    service: str | None,
    context: str | None,
    model: str,
    system: str | None,
    raw: bool,
    as_json: bool,
    no_stream: bool,
    stop: tuple[str, ...],
    **sampling: float | None,
) -> None:
    """Ask a running server for an answer to PROMPT, and print it as it comes.

    PROMPT is one message to the model; `-` reads it from standard input. What no option says is the model's own
    default.

    \b
    Example:
      trtpack predict "What is a mistral?" --max-new-tokens 100 --temperature 0
      trtpack predict "What is a mistral?" --kube models/smollm
      cat letter.txt | trtpack predict - --system "Answer in one sentence."
    """
    if raw and system is not None:
        raise click.UsageError("--system needs the chat template, which --raw leaves out")
    text = sys.stdin.read().removesuffix("\n") if prompt == "-" else prompt
    streaming = not (as_json or no_stream)
    body: dict[str, Any] = {"prompt": text} if raw else {"messages": _messages(text, system)}
    body |= {name: value for name, value in sampling.items() if value is not None}
    body |= {"stop": list(stop)} if stop else {}
    with _server(url, service, context) as server:
        endpoint = f"{server.rstrip('/')}/v1/models/{quote(model, safe='')}:predict"
        _print(_ask(endpoint, body | {"streaming": streaming}, as_json))


def _server(url: str, service: str | None, context: str | None) -> AbstractContextManager[str]:
    return _forwarded(service, context) if service else nullcontext(url)


@contextmanager
def _forwarded(service: str, context: str | None) -> Iterator[str]:
    """The address of a port that leads to a ready pod behind the Service, while the body runs."""
    from k8s.deploy.forward import endpoint, forwarded
    from packager.cli import kube

    with kube.connected(context, None) as cluster:
        namespace, name = kube.workload(service, cluster)
        pod, port = endpoint(cluster, namespace, name)
        with forwarded(cluster, namespace, pod, port) as local:
            yield f"http://127.0.0.1:{local}"


def _print(parts: Iterator[str]) -> None:
    started = False
    try:
        for part in parts:
            click.echo(part, nl=False)
            started = True
    finally:
        if started:
            click.echo()


def _messages(text: str, system: str | None) -> list[dict[str, str]]:
    first = [{"role": "system", "content": system}] if system is not None else []
    return [*first, {"role": "user", "content": text}]


def _ask(url: str, body: dict[str, Any], as_json: bool) -> Iterator[str]:
    """The parts of the answer, each as soon as it is here. Raises TrtpackError for every way that it can fail."""
    timeout = httpx.Timeout(None, connect=_CONNECT_SECONDS)
    try:
        # A proxy of the environment leads away from this machine.
        proxied = httpx.URL(url).host not in _LOOPBACK
        with (
            httpx.Client(timeout=timeout, trust_env=proxied) as client,
            client.stream("POST", url, json=body) as response,
        ):
            if not response.is_success:
                raise _refusal(response)
            if response.headers.get("content-type", "").startswith("application/json"):
                yield _answer(response.read(), as_json)
            else:
                yield from response.iter_text()
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise ConfigError(f"--url: {error}", "Example: --url http://127.0.0.1:8080") from error
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise TrtpackError(f"no server answers at {url}: {error}", "Start one with: trtpack serve") from error
    except httpx.RequestError as error:
        raise TrtpackError(f"the server broke off its answer: {error}", "Its log says why.") from error


def _answer(content: bytes, as_json: bool) -> str:
    try:
        answer = json.loads(content)
    except ValueError as error:
        raise TrtpackError(f"the server's answer is not JSON: {error}") from error
    if not as_json and isinstance(answer, dict) and isinstance(answer.get("output"), str):
        return str(answer["output"])
    return json.dumps(answer, ensure_ascii=False)


def _refusal(response: httpx.Response) -> TrtpackError:
    """What the server says, as it says it: `{"error": message}`, or the first line of another body."""
    text = response.read().decode("utf-8", "replace").strip()
    try:
        message = str(json.loads(text)["error"])
    except (ValueError, TypeError, KeyError):
        message = text.partition("\n")[0] or response.reason_phrase
    after = response.headers.get("retry-after")
    return TrtpackError(f"the server answered {response.status_code}: {message}", after and f"Try again in {after} s.")
