"""
Which sandbox this is, and its variables.

The server is started once, when the template is made, and goes on from memory in each sandbox of it: what it was started with is the build's. The guest agent writes
what is true now to a file, and changes the generation id at each restore, which is how the server notices.
"""

from __future__ import annotations

import asyncio
import json

GENERATION_ID_PATH = "/run/roost/generation-id"
ENVIRONMENT_PATH = "/run/roost/environment.json"
# sudo asks nothing and takes milliseconds; a guest that cannot even do that goes on without
READ_SECONDS = 20


def generation_id() -> str:
    try:
        with open(GENERATION_ID_PATH, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""  # outside of a sandbox: tests


class SandboxEnvironment:
    """The sandbox's variables by name, read again when the sandbox is another one."""

    def __init__(self) -> None:
        self._generation: str | None = None
        self._variables: dict[str, str] = {}

    async def read(self) -> dict[str, str]:
        generation = generation_id()
        if generation != self._generation:
            self._variables = await _read_file()
            self._generation = generation
        return self._variables


async def _read_file() -> dict[str, str]:
    try:
        # Only root may read it: a sandbox's variables are often secrets, and other users run here, too
        process = await asyncio.create_subprocess_exec(
            "sudo", "-n", "cat", ENVIRONMENT_PATH, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
    except OSError:
        return {}
    try:
        content, _ = await asyncio.wait_for(process.communicate(), READ_SECONDS)
        variables = json.loads(content)
    except (asyncio.TimeoutError, ValueError):
        if process.returncode is None:
            process.kill()
        return {}
    return {name: value for name, value in variables.items() if isinstance(value, str)}
