"""
Variables that come with an execution, for all kernels.

    environment   the sandbox's own: they stay, and are set again only when they are others than the last time, so what code changed stays changed
    envs          the execution's: as before when it is over
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class ExecutionEnvs:
    def __init__(self) -> None:
        self._environment: dict[str, str] = {}

    @contextmanager
    def applied(
        self,
        request: dict[str, Any],
        get: Callable[[str], str | None],
        put: Callable[[str, str | None], None],
    ) -> Iterator[None]:
        """`get` and `put` read and write a variable of the kernel; None is one that is not set."""
        metadata = request.get("metadata") or {}
        environment = metadata.get("environment") or {}
        for name, value in environment.items():
            if self._environment.get(name) != value:
                put(name, value)
        self._environment = environment
        envs = metadata.get("envs") or {}
        before = {name: get(name) for name in envs}
        try:
            for name, value in envs.items():
                put(name, value)
            yield
        finally:
            for name, value in before.items():
                put(name, value)
