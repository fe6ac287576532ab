"""The application that a server of ASGI calls: routes, methods, and errors as JSON. It needs no framework."""

import json
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from sairlib.errors import UserError, one_line
from sairlib.serving import questions
from sairlib.serving.answers import Answer, Answers, Prepared
from sairlib.serving.questions import Question
from sairlib.serving.together import Together

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

FOLDER = Path(__file__).parent
LARGEST_BODY = 1_000_000
"""Bytes; a history of 100,000 ids."""
SEARCHED = 100
"""How many items a search gives at most."""
TOGETHER = 64
"""How many questions the model answers at once."""
PAGE_MAY = (
    b"default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:"
)
"""The page is one file, and asks nobody but this server."""

_log = logging.getLogger("sairlib.serve")


class Reply(NamedTuple):
    """What goes back to a client."""

    body: bytes
    status: int = 200
    kind: str = "application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()


class RefusedError(Exception):
    """A request that is refused, with the status and the reason."""

    def __init__(self, status: int, reason: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(reason)
        self.reply = Reply(json.dumps({"error": reason}).encode(), status, headers=headers)


Handler: TypeAlias = Callable[[str, Receive], Awaitable[Reply]]
"""From the query, and what the body is received by, to the reply."""


class App:
    """Answers of a run by HTTP. A bug is logged with its traceback; the client learns only that there was one."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.together: Together[Prepared, Answer] = Together(answers.answer, TOGETHER)
        self._page = (FOLDER / "page.html").read_bytes()
        self._description = (FOLDER / "openapi.json").read_bytes()
        self.routes: Mapping[str, Mapping[str, Handler]] = {
            "/": {"GET": self.page},
            "/health": {"GET": self.health},
            "/items": {"GET": self.items},
            "/openapi.json": {"GET": self.openapi},
            "/recommend": {"GET": self.recommend_user, "POST": self.recommend_history},
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, as ASGI 3 gives it."""
        assert scope["type"] == "http"
        try:
            reply = await self._reply(scope, receive)
        except RefusedError as refused:
            reply = refused.reply
        except UserError as error:
            reply = RefusedError(400, one_line(error)).reply
        except Exception:
            _log.exception("%s %s failed", scope["method"], scope["path"])
            reply = RefusedError(500, "an error of the server; its log has more").reply
        headers = [
            (b"content-type", reply.kind.encode()),
            (b"content-length", str(len(reply.body)).encode()),
            (b"x-content-type-options", b"nosniff"),
            *reply.headers,
        ]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    async def _reply(self, scope: Scope, receive: Receive) -> Reply:
        methods = self.routes.get(scope["path"])
        if methods is None:
            raise RefusedError(404, f"no such path; there are {', '.join(self.routes)}")
        method = "GET" if scope["method"] == "HEAD" else scope["method"]  # the server sends no body to HEAD
        if method not in methods:
            allowed = ", ".join(methods)
            raise RefusedError(405, f"{scope['path']} takes {allowed}", ((b"allow", allowed.encode()),))
        return await methods[method](scope["query_string"].decode("latin-1"), receive)

    async def recommend_user(self, query: str, receive: Receive) -> Reply:
        """``GET /recommend?user=42``"""
        return await self._recommend(questions.of_query(query))

    async def recommend_history(self, query: str, receive: Receive) -> Reply:
        """``POST /recommend`` with a history."""
        questions.words(query, ())
        return await self._recommend(questions.of_body(await _body(receive)))

    async def _recommend(self, question: Question) -> Reply:
        return _json(await self.together.ask(self.answers.prepare(question)))

    async def items(self, query: str, receive: Receive) -> Reply:
        """``GET /items?query=tit``"""
        given = questions.words(query, ("query", "limit"))
        limit = questions.number("limit", given.get("limit", "20"), SEARCHED)
        return _json(self.answers.search(given.get("query", "")[:200], limit))

    async def health(self, query: str, receive: Receive) -> Reply:
        """``GET /health``"""
        return _json(self.answers.about())

    async def openapi(self, query: str, receive: Receive) -> Reply:
        """``GET /openapi.json``"""
        return Reply(self._description)

    async def page(self, query: str, receive: Receive) -> Reply:
        """``GET /``"""
        return Reply(self._page, kind="text/html; charset=utf-8", headers=((b"content-security-policy", PAGE_MAY),))


def _json(value: Answer) -> Reply:
    return Reply(json.dumps(value).encode())


async def _body(receive: Receive) -> bytes:
    """The whole body; refused as soon as it is too large."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RefusedError(400, "the client has gone")
        body += message.get("body", b"")
        if len(body) > LARGEST_BODY:
            raise RefusedError(413, f"the body has more than {LARGEST_BODY:,} bytes")
        if not message.get("more_body", False):
            return bytes(body)
