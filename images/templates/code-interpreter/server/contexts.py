"""All contexts of the sandbox: those that were asked for, and one for each language that code without a context runs in."""

from __future__ import annotations

import asyncio
import os

from context import Context
from limits import CONTEXTS_MAX
from sandbox_environment import SandboxEnvironment

LANGUAGES = ("python", "javascript", "bash")
ALIASES = {"": "python", "py": "python", "python3": "python", "js": "javascript", "node": "javascript", "sh": "bash", "shell": "bash"}


class Refused(Exception):
    """A request that cannot be served: status, and why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Contexts:
    def __init__(self, environment: SandboxEnvironment) -> None:
        self._environment = environment
        self._contexts: dict[str, Context] = {}
        # By language, while they start and after: two requests at once begin one kernel
        self._defaults: dict[str, asyncio.Task[Context]] = {}
        self._starting = 0

    def list(self) -> list[Context]:
        return list(self._contexts.values())

    async def create(self, language: str | None, cwd: str | None) -> Context:
        name = _known(language)
        folder = cwd or os.path.expanduser("~")
        if not os.path.isdir(folder):
            raise Refused(400, f"There is no folder {folder}")
        if len(self._contexts) + self._starting >= CONTEXTS_MAX:
            raise Refused(429, f"There are {CONTEXTS_MAX} contexts already: remove one first")
        self._starting += 1
        try:
            context = Context(name, folder)
            await context.start(await self._environment.read())
        finally:
            self._starting -= 1
        self._contexts[context.id] = context
        return context

    def find(self, context_id: str) -> Context:
        context = self._contexts.get(context_id)
        if context is None:
            raise Refused(404, f"Context {context_id} not found")
        return context

    async def default(self, language: str | None) -> Context:
        name = _known(language)
        starting = self._defaults.get(name)
        if starting is not None and starting.done() and (starting.exception() is not None or starting.result().id not in self._contexts):
            starting = None  # it did not start, or was removed
        if starting is None:
            starting = self._defaults[name] = asyncio.create_task(self.create(name, None))
        return await asyncio.shield(starting)

    async def restart(self, context_id: str) -> None:
        await self.find(context_id).restart(await self._environment.read())

    async def remove(self, context_id: str) -> None:
        context = self.find(context_id)
        del self._contexts[context_id]
        await context.stop()

    async def stop(self) -> None:
        for context_id in list(self._contexts):
            await self.remove(context_id)


def _known(language: str | None) -> str:
    name = (language or "").strip().lower()
    name = ALIASES.get(name, name)
    if name not in LANGUAGES:
        raise Refused(400, f"Unsupported language {language!r}: there are {', '.join(LANGUAGES)}")
    return name
