"""How the client asks: one connection pool, its credentials, and what becomes of failures."""

import itertools
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Self, TypeVar

import httpx
import msgspec

from api.client.answers import ClientError, converted, read, refusal, unreachable

T = TypeVar("T")
DEFAULT_URL = "http://127.0.0.1:8000"
PREFIX = "/api/v1"
_PAGE = 1_000


class Requests:
    """Requests to a Callboard server at ``url``. Close it, or use ``with``; any thread may use it.

    ``token`` is a JWT or an API key, ``timeout`` the seconds to wait for an answer. ``transport`` replaces
    the network, in tests for example.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        token: str | None = None,
        timeout: float = 10.0,
        *,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = _checked(url)
        self._timeout = timeout
        self._http = httpx.Client(
            base_url=self.url,
            headers=_credentials(token),
            timeout=timeout,
            transport=transport,
            # A proxy of the environment cannot see this machine's own loopback.
            trust_env=httpx.URL(self.url).host not in ("127.0.0.1", "localhost", "::1"),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the client cannot be used any more."""
        self._http.close()

    def _all(self, path: str, plural: str, kind: type[T]) -> Iterator[T]:
        for offset in itertools.count(0, _PAGE):
            answer = self._get(path, {"limit": _PAGE, "offset": offset})
            part = converted(read(answer, dict[str, Any]).get(plural), list[kind], answer.url)  # type: ignore[valid-type]
            yield from part
            if len(part) < _PAGE:
                return

    def _get(
        self, path: str, query: Mapping[str, Any] | None = None, patience: float = 0.0
    ) -> httpx.Response:
        given = {key: _as_text(value) for key, value in (query or {}).items() if value is not None}
        return self._send("GET", path, params=given, timeout=self._patient(patience))

    def _post(
        self,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        patience: float = 0.0,
    ) -> httpx.Response:
        content = b"{}" if body is None else msgspec.json.encode(body)
        return self._send(
            "POST",
            path,
            content=content,
            headers={"Content-Type": "application/json", **(headers or {})},
            timeout=self._patient(patience),
        )

    def _patient(self, patience: float) -> httpx.Timeout:
        return httpx.Timeout(self._timeout, read=max(self._timeout, patience))

    def _send(self, method: str, path: str, *, prefix: str = PREFIX, **options: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, prefix + path, **options)
        except httpx.TransportError as error:
            raise unreachable(self.url, error) from error
        if answer.is_error:
            raise refusal(answer)
        return answer


def _checked(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ClientError(f"{url!r} is not a URL ({error}): write it like {DEFAULT_URL}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ClientError(f"{url!r} is not a URL of a server: write it like {DEFAULT_URL}")
    return url.rstrip("/")


def _credentials(token: str | None) -> dict[str, str]:
    if not token:
        return {}
    # A JWT is three parts with dots between them; anything else is an API key.
    return {"Authorization": f"Bearer {token}"} if token.count(".") == 2 else {"X-API-Key": token}


def _as_text(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
