"""
Code interpreter of a sandbox: runs code in Jupyter kernels, over the HTTP that E2B's code interpreter SDKs speak.

    GET    /health                   200 when the Python kernel is warm
    POST   /execute                  {code, context_id? | language?, env_vars?} -> lines of JSON as they come (outputs.py)
    GET    /contexts                 [{id, language, cwd}]
    POST   /contexts                 {language?, cwd?} -> {id, language, cwd}
    POST   /contexts/ID/restart      a new kernel in the same context
    DELETE /contexts/ID

A kernel takes seconds to start and to load pandas, so the template's start command starts this with a Python kernel, and the template's memory has both.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
from contextlib import aclosing
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.iostream import StreamClosedError
from tornado.web import Application, RequestHandler

from context import ContextBusy
from contexts import Contexts, Refused
from limits import REQUEST_BYTES_MAX
from sandbox_environment import SandboxEnvironment

PORT = 49999
log = logging.getLogger("server")

# What is loaded before the memory of the template is saved; it leaves no name behind
WARM_UP = "__import__('pandas'), __import__('matplotlib.pyplot'); None"


class Handler(RequestHandler):
    def initialize(self, contexts: Contexts, environment: SandboxEnvironment) -> None:
        self.contexts = contexts
        self.environment = environment

    def json_body(self, **fields: type) -> dict[str, Any]:
        """The fields of the request's body; what is absent or null is left out, what has another type is refused."""
        try:
            body = json.loads(self.request.body or b"{}")
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise Refused(400, "The body must be a JSON object")
        for name, kind in fields.items():
            if body.get(name) is not None and not isinstance(body[name], kind):
                raise Refused(400, f"{name} must be of type {kind.__name__}")
        return {name: body[name] for name in fields if body.get(name) is not None}

    def write_error(self, status_code: int, **details: Any) -> None:
        error = details.get("exc_info", (None, None, None))[1]
        if isinstance(error, Refused):
            self.set_status(error.status)
        elif isinstance(error, ContextBusy):
            self.set_status(429)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(str(error) if isinstance(error, (Refused, ContextBusy)) else self._reason)

    def log_exception(self, kind: Any, error: Any, trace: Any) -> None:
        if not isinstance(error, (Refused, ContextBusy)):
            super().log_exception(kind, error, trace)


class Health(Handler):
    async def get(self) -> None:
        self.write("ready")


class Execute(Handler):
    _reading: asyncio.Task[None] | None = None

    async def post(self) -> None:
        body = self.json_body(code=str, context_id=str, language=str, env_vars=dict)
        if "code" not in body:
            raise Refused(400, "code is missing")
        if "context_id" in body and "language" in body:
            raise Refused(400, "Give context_id or language, not both")
        envs = body.get("env_vars", {})
        if not all(isinstance(value, str) for value in envs.values()):
            raise Refused(400, "The values of env_vars must be strings")
        context = self.contexts.find(body["context_id"]) if "context_id" in body else await self.contexts.default(body.get("language"))
        lines = context.execute(body["code"], envs, await self.environment.read())
        self.set_header("Content-Type", "application/x-ndjson")
        # Ended by on_connection_close, and with it the execution: nobody could see its output any more
        self._reading = asyncio.create_task(self._send(lines))
        try:
            await self._reading
        except (asyncio.CancelledError, StreamClosedError):
            log.info("who asked for an execution went away: it was interrupted")

    async def _send(self, lines: Any) -> None:
        async with aclosing(lines):
            async for line in lines:
                self.write(line)
                await self.flush()  # waits for a reader that is slow

    def on_connection_close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()


class ContextList(Handler):
    async def get(self) -> None:
        self.set_header("Content-Type", "application/json")
        self.write(json.dumps([context.describe() for context in self.contexts.list()]))

    async def post(self) -> None:
        body = self.json_body(language=str, cwd=str)
        self.write((await self.contexts.create(body.get("language"), body.get("cwd"))).describe())


class OneContext(Handler):
    async def delete(self, context_id: str) -> None:
        await self.contexts.remove(context_id)


class ContextRestart(Handler):
    async def post(self, context_id: str) -> None:
        await self.contexts.restart(context_id)


async def warm_up(contexts: Contexts) -> None:
    context = await contexts.default("python")
    async for line in context.execute(WARM_UP, {}, {}, is_counted=False):
        if json.loads(line)["type"] == "error":
            raise RuntimeError(f"the Python kernel does not work: {line.decode()}")


async def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    logging.getLogger("tornado.access").setLevel(logging.WARNING)
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    environment = SandboxEnvironment()
    contexts = Contexts(environment)
    try:
        await warm_up(contexts)
        listen(contexts, environment)  # only now: who is answered finds a kernel
        await ended.wait()
    finally:
        await contexts.stop()


def listen(contexts: Contexts, environment: SandboxEnvironment) -> None:
    parts = {"contexts": contexts, "environment": environment}
    routes = [
        ("/health", Health, parts),
        ("/execute", Execute, parts),
        ("/contexts", ContextList, parts),
        ("/contexts/([0-9a-zA-Z-]{1,64})", OneContext, parts),
        ("/contexts/([0-9a-zA-Z-]{1,64})/restart", ContextRestart, parts),
    ]
    HTTPServer(Application(routes), max_body_size=REQUEST_BYTES_MAX, max_buffer_size=2 * REQUEST_BYTES_MAX).listen(PORT)
    log.info("listening on port %d", PORT)


if __name__ == "__main__":
    asyncio.run(main())
