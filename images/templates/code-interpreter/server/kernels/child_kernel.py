"""
A kernel whose code runs in a child process: for languages that have an interpreter and no Jupyter kernel in Debian.

What the child writes to its stdout and stderr while it works is the output. It ends each execution with a mark on both, which is drawn anew for each, and tells what came of it as
one line of JSON on a pipe of its own.

An interrupt is a SIGINT; a child that has not come back a little later is ended, and the next execution begins a new one, without what the old one knew.
"""

from __future__ import annotations

import codecs
import json
import os
import secrets
import selectors
import signal
import subprocess
import threading
from typing import Any

import ipykernel_without_debugger  # noqa: F401
from ipykernel.kernelbase import Kernel

from kernel_envs import ExecutionEnvs

INTERRUPT_SECONDS = 2
READ_BYTES = 65_536


class ChildEnded(Exception):
    """The child ended in the middle of an execution: by an interrupt, or because the code told it to."""


class ChildKernel(Kernel):
    implementation_version = "1"
    banner = ""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._envs = ExecutionEnvs()
        self._child: subprocess.Popen[bytes] | None = None

    # What a language says about itself

    def command(self, requests: int, answers: int) -> list[str]:
        """The child's program; it reads requests from one descriptor and answers on the other."""
        raise NotImplementedError

    def encode(self, request: dict[str, Any]) -> bytes:
        """A request for the child: {mark, code} to run something, {name, value} to set a variable (null: to remove it)."""
        raise NotImplementedError

    # Jupyter's side

    def do_execute(self, code: str, silent: bool, *arguments: Any, **options: Any) -> dict[str, Any]:
        answer: dict[str, Any] = {}
        try:
            self._start()
            with self._envs.applied(self.get_parent("shell"), self._get, self._put):
                answer = self._run(code)
        except ChildEnded as ended:
            answer = {"error": {"name": "InterpreterEnded", "value": str(ended), "traceback": [str(ended)]}}
            self._end()
        if (error := answer.get("error")) is not None:
            content = {"ename": error["name"], "evalue": error["value"], "traceback": error["traceback"]}
            self.send_response(self.iopub_socket, "error", content)
            return {"status": "error", "execution_count": self.execution_count, **content}
        if (forms := answer.get("result")) is not None:
            content = {"execution_count": self.execution_count, "data": forms, "metadata": {}}
            self.send_response(self.iopub_socket, "execute_result", content)
        return {"status": "ok", "execution_count": self.execution_count, "payload": [], "user_expressions": {}}

    async def interrupt_request(self, stream: Any, ident: Any, parent: Any) -> None:
        """In a thread of its own, while the other waits for the child."""
        if (child := self._child) is not None:
            _signal(child, signal.SIGINT)
            threading.Timer(INTERRUPT_SECONDS, self._insist, [child, self._executions]).start()
        self.session.send(stream, "interrupt_reply", {"status": "ok"}, parent, ident=ident)

    def do_shutdown(self, restart: bool) -> dict[str, Any]:
        self._end()
        return {"status": "ok", "restart": restart}

    # The child

    _executions = 0
    _is_running = False

    def _insist(self, child: subprocess.Popen[bytes], execution: int) -> None:
        if self._is_running and self._child is child and self._executions == execution:
            _signal(child, signal.SIGKILL)

    def _start(self) -> None:
        if self._child is not None and self._child.poll() is None:
            return
        self._end()
        their_requests, self._requests = os.pipe()
        self._answers, their_answers = os.pipe()
        self._variables = dict(os.environ)
        try:
            self._child = subprocess.Popen(
                self.command(their_requests, their_answers),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self._variables,
                pass_fds=(their_requests, their_answers),
                start_new_session=True,
            )
        finally:
            os.close(their_requests)
            os.close(their_answers)
        self._envs = ExecutionEnvs()  # the new child knows nothing of what the old one was told

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        _signal(child, signal.SIGKILL)
        child.wait()
        for stream in (child.stdout, child.stderr):
            stream.close()
        os.close(self._requests)
        os.close(self._answers)

    def _get(self, name: str) -> str | None:
        return self._variables.get(name)

    def _put(self, name: str, value: str | None) -> None:
        if value is None:
            self._variables.pop(name, None)
        else:
            self._variables[name] = value
        self._write({"name": name, "value": value})

    def _write(self, request: dict[str, Any]) -> None:
        data = memoryview(self.encode(request))
        try:
            while data:
                data = data[os.write(self._requests, data) :]
        except BrokenPipeError:
            pass  # it ended: told where its output is read

    def _run(self, code: str) -> dict[str, Any]:
        mark = secrets.token_hex(16)
        self._executions += 1
        self._is_running = True
        try:
            self._write({"mark": mark, "code": code})
            self._forward_output(mark.encode())
        finally:
            self._is_running = False
        answer = bytearray()
        while not answer.endswith(b"\n"):
            chunk = os.read(self._answers, READ_BYTES)
            if chunk == b"":
                raise ChildEnded("The interpreter ended: a new one begins with the next execution.")
            answer += chunk
        return json.loads(answer)

    def _forward_output(self, mark: bytes) -> None:
        """Sends what the child writes until it has written the mark to both of its outputs."""
        with selectors.DefaultSelector() as selector:
            for name, stream in (("stdout", self._child.stdout), ("stderr", self._child.stderr)):
                selector.register(stream, selectors.EVENT_READ, (name, bytearray(), codecs.getincrementaldecoder("utf-8")("replace")))
            while selector.get_map():
                for key, _ in selector.select():
                    name, held, decoder = key.data
                    chunk = os.read(key.fd, READ_BYTES)
                    held += chunk
                    end = held.find(mark)
                    # What may be the beginning of the mark is held back until more is known
                    ready = len(held) if chunk == b"" else end if end >= 0 else max(0, len(held) - len(mark) + 1)
                    is_last = chunk == b"" or end >= 0
                    if (text := decoder.decode(bytes(held[:ready]), is_last)) != "":
                        self.send_response(self.iopub_socket, "stream", {"name": name, "text": text})
                    del held[:ready]
                    if is_last:
                        selector.unregister(key.fileobj)
                    if chunk == b"":
                        raise ChildEnded("The interpreter ended: a new one begins with the next execution.")


def _signal(child: subprocess.Popen[bytes], number: int) -> None:
    try:
        os.killpg(child.pid, number)
    except ProcessLookupError:
        pass  # it has ended
