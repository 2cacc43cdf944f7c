"""A registry's challenge, and the answer to it (distribution.github.io/distribution/spec/auth/token and .../oauth)."""

import base64
import re
from collections.abc import Callable, Generator

import httpx

from runtime.registry.credentials import Credentials

_CLIENT = "trtpack"
_PARAMETER = re.compile(r'([A-Za-z_]+)\s*=\s*"([^"]*)"')


class RegistryAuth(httpx.Auth):
    """Asks for credentials only when challenged, then keeps the answer: one token serves until it expires.

    What goes to another host than the registry's, where it sends a client on for a blob, carries none of it.
    """

    def __init__(self, registry: httpx.URL, credentials: Callable[[], Credentials | None]) -> None:
        self._origin = _origin(registry)
        self._credentials = credentials
        self._header: str | None = None

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Sends `request` again with an answer where a registry says 401, once."""
        if _origin(request.url) != self._origin:
            yield request
            return
        if self._header:
            request.headers["Authorization"] = self._header
        response = yield request
        if response.status_code != httpx.codes.UNAUTHORIZED or _origin(response.url) != self._origin:
            return
        response.read()
        for challenge in response.headers.get_list("www-authenticate"):
            scheme, _, rest = challenge.partition(" ")
            parameters = dict(_PARAMETER.findall(rest))
            if scheme.lower() == "bearer" and "realm" in parameters:
                answer = yield _token_request(parameters, self._credentials())
                answer.read()
                self._header = _bearer(answer)
            elif scheme.lower() == "basic":
                self._header = _basic(self._credentials())
        # Without an answer, too: the last response is the registry's own, and not that of who gives out tokens.
        request.headers.pop("Authorization", None)
        if self._header:
            request.headers["Authorization"] = self._header
        yield request


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _token_request(parameters: dict[str, str], credentials: Credentials | None) -> httpx.Request:
    wanted = {name: value for name, value in parameters.items() if name in ("service", "scope")}
    realm = parameters["realm"]
    if credentials and credentials.identity_token:
        form = {"grant_type": "refresh_token", "client_id": _CLIENT, "refresh_token": credentials.identity_token}
        return httpx.Request("POST", realm, data={**form, **wanted})
    header = _basic(credentials)
    return httpx.Request("GET", realm, params=wanted, headers={"Authorization": header} if header else {})


def _bearer(answer: httpx.Response) -> str | None:
    try:
        content = answer.json() if answer.is_success else {}
    except ValueError:
        content = {}
    token = content.get("token") or content.get("access_token")
    return f"Bearer {token}" if token else None


def _basic(credentials: Credentials | None) -> str | None:
    if credentials is None or credentials.identity_token:
        return None
    pair = f"{credentials.username}:{credentials.password}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"
