"""A context: one kernel, which keeps its state between executions, and what runs in it, one after the other."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from queue import Empty
from typing import Any

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager

from limits import INTERRUPT_SECONDS, KERNEL_ALIVE_SECONDS, KERNEL_START_SECONDS, UNREAD_BYTES_MAX, WAITING_MAX
from outputs import Line, error_of, is_end_of, line_of

log = logging.getLogger("context")

KERNELS_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "kernels")

DIED = "The kernel ended in the middle of the execution: it was restarted, or ran out of memory, or the code ended it."
TOO_MUCH = f"More than {UNREAD_BYTES_MAX} bytes of output wait to be read."


class ContextBusy(Exception):
    """More executions wait for this context than it takes."""


class Context:
    def __init__(self, language: str, cwd: str) -> None:
        self.id = str(uuid.uuid4())
        self.language = language
        self.cwd = cwd
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._environment: dict[str, str] = {}
        self._folder = ""
        self._manager: AsyncKernelManager | None = None
        self._client: Any = None

    def describe(self) -> dict[str, str]:
        return {"id": self.id, "language": self.language, "cwd": self.cwd}

    async def start(self, environment: dict[str, str]) -> None:
        """Starts the kernel and returns when it answers. Raises when it does not."""
        self._environment = environment
        # Sockets in the file system: ports on localhost can be reached from outside of the sandbox, and the kernel's key is the same in all sandboxes of a template
        specs = KernelSpecManager(kernel_dirs=[KERNELS_FOLDER], ensure_native_kernel=False)
        self._folder = tempfile.mkdtemp(prefix="code-interpreter-")
        self._manager = AsyncKernelManager(
            kernel_name=f"interpreter-{self.language}",
            kernel_spec_manager=specs,
            transport="ipc",
            connection_file=os.path.join(self._folder, "kernel.json"),
        )
        try:
            await self._manager.start_kernel(cwd=self.cwd, env={**os.environ, **environment})
            self._client = self._manager.client()
            self._client.start_channels()
            await self._client.wait_for_ready(timeout=KERNEL_START_SECONDS)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.stop_channels()
        await self._end_kernel()

    async def restart(self, environment: dict[str, str]) -> None:
        """A new kernel with nothing of the old one's state; what runs ends with an error, what waits runs in the new one."""
        await self._end_kernel()  # whoever has the turn notices, and gives the turn back
        async with self._turn:
            await self._replace(environment)

    async def execute(
        self, code: str, envs: dict[str, str], environment: dict[str, str], *, is_counted: bool = True
    ) -> AsyncGenerator[bytes, None]:
        """
        The lines of one execution as they come, as JSON; ends with `end_of_execution`. Whoever stops reading interrupts it. `envs` hold for this execution alone,
        `environment` is the sandbox's.
        """
        if self._waiting >= WAITING_MAX:
            raise ContextBusy(f"{WAITING_MAX} executions wait for context {self.id} already")
        self._waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self._waiting -= 1
        is_done = False
        try:
            self._environment = environment
            if not await self._is_alive():
                await self._replace(environment)
            async with aclosing(self._lines_of(self._send(code, envs, is_counted))) as lines:
                async for line in lines:
                    yield line
            is_done = True
            yield _encoded({"type": "end_of_execution"})
        finally:
            try:
                if not is_done:
                    await asyncio.shield(self._interrupt())
            finally:
                self._turn.release()

    async def _lines_of(self, request_id: str) -> AsyncGenerator[bytes, None]:
        """Apart from the reader, however slow that is, the kernel's sockets are emptied: they would drop what does not fit, also the end."""
        unread: asyncio.Queue[bytes | None] = asyncio.Queue()
        size = 0

        async def collect() -> None:
            nonlocal size
            try:
                async for line in self._messages_of(request_id):
                    encoded = _encoded(line)
                    size += len(encoded)
                    if size > UNREAD_BYTES_MAX:
                        unread.put_nowait(_encoded(error_of("OutputLimit", TOO_MUCH, [])))
                        await self._interrupt()
                        return
                    unread.put_nowait(encoded)
            except Exception as error:
                log.exception("the output of %s cannot be read", self.id)
                unread.put_nowait(_encoded(error_of(type(error).__name__, str(error), [])))
                await self._interrupt()
            finally:
                unread.put_nowait(None)

        collector = asyncio.create_task(collect())
        try:
            while (line := await unread.get()) is not None:
                size -= len(line)
                yield line
        finally:
            collector.cancel()
            await asyncio.gather(collector, return_exceptions=True)  # two must not read the same socket

    async def _messages_of(self, request_id: str) -> AsyncIterator[Line]:
        while True:
            client = self._client
            try:
                message = await client.get_iopub_msg(timeout=KERNEL_ALIVE_SECONDS)
            except Empty:
                if client is self._client and await self._is_alive():
                    continue
                yield error_of("KernelDied", DIED, [])
                return
            if message["parent_header"].get("msg_id") != request_id:
                continue  # of an execution that was interrupted
            if is_end_of(message, request_id):
                await self._until_answered(request_id)
                return
            if (line := line_of(message)) is not None:
                yield line

    def _send(self, code: str, envs: dict[str, str], is_counted: bool) -> str:
        content = {"code": code, "silent": False, "store_history": is_counted, "allow_stdin": False, "stop_on_error": False}
        metadata = {"envs": envs, "environment": self._environment}
        message = self._client.session.msg("execute_request", content, metadata=metadata)
        self._client.shell_channel.send(message)
        return message["header"]["msg_id"]

    async def _interrupt(self) -> None:
        """Ends what runs, if need be with the kernel, so that the next execution finds one that is idle."""
        if not await self._is_alive():
            return
        try:
            await self._manager.interrupt_kernel()
            await self._until_answered(self._client.kernel_info())  # whose turn comes when all before is done
        except Exception as error:
            log.warning("the kernel of %s goes on with what it does, and is replaced: %r", self.id, error)
            await self._replace(self._environment)

    async def _until_answered(self, request_id: str) -> None:
        async def answered() -> None:
            while (await self._client.get_shell_msg(timeout=INTERRUPT_SECONDS))["parent_header"].get("msg_id") != request_id:
                pass

        await asyncio.wait_for(answered(), INTERRUPT_SECONDS)

    async def _is_alive(self) -> bool:
        return self._manager is not None and self._client is not None and await self._manager.is_alive()

    async def _end_kernel(self) -> None:
        manager, folder, self._manager = self._manager, self._folder, None  # one that has ended its kernel starts no other
        if manager is not None:
            await manager.shutdown_kernel(now=True)
            shutil.rmtree(folder, ignore_errors=True)

    async def _replace(self, environment: dict[str, str]) -> None:
        await self.stop()
        await self.start(environment)


def _encoded(line: Line) -> bytes:
    return json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
