"""The Python kernel: Jupyter's, with the variables of an execution, tables and charts as data, and random numbers that differ between sandboxes."""

from __future__ import annotations

import os
import random
import sys
from typing import Any

import ipykernel_without_debugger  # noqa: F401
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
from IPython.core.formatters import BaseFormatter
from traitlets import ObjectName, Unicode

from kernel_charts import chart_of
from kernel_envs import ExecutionEnvs
from kernel_tables import data_of

GENERATION_ID_PATH = "/run/roost/generation-id"


class DataFormatter(BaseFormatter):
    format_type = Unicode("e2b/data")
    print_method = ObjectName("_repr_e2b_data_")
    _return_type = dict

    def __call__(self, value: Any) -> dict[str, Any] | None:
        return data_of(value)


class ChartFormatter(BaseFormatter):
    format_type = Unicode("e2b/chart")
    print_method = ObjectName("_repr_e2b_chart_")
    _return_type = dict

    def __call__(self, value: Any) -> dict[str, Any] | None:
        return chart_of(value)


class PythonKernel(IPythonKernel):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._envs = ExecutionEnvs()
        self._generation = _generation_id()
        formatter = self.shell.display_formatter
        formatter.formatters["e2b/data"] = DataFormatter(parent=formatter)
        formatter.formatters["e2b/chart"] = ChartFormatter(parent=formatter)

    async def do_execute(self, *arguments: Any, **options: Any) -> Any:
        self._notice_copy()
        with self._envs.applied(self.get_parent("shell"), os.environ.get, _put):
            return await super().do_execute(*arguments, **options)

    def _notice_copy(self) -> None:
        """All sandboxes of a template begin with the same memory, also with the same state of these generators."""
        generation = _generation_id()
        if generation == self._generation:
            return
        self._generation = generation
        random.seed()
        if (numpy := sys.modules.get("numpy")) is not None:
            numpy.random.seed()


def _put(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def _generation_id() -> str:
    try:
        with open(GENERATION_ID_PATH, encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""  # outside of a sandbox


if __name__ == "__main__":
    sys.path.pop(0)  # this folder: users import their own modules, from where they work
    IPKernelApp.launch_instance(
        kernel_class=PythonKernel,
        # Tracebacks are for programs; a history file would be one more write to the disk for each execution
        argv=[*sys.argv[1:], "--InteractiveShell.colors=NoColor", "--HistoryManager.enabled=False"],
    )
