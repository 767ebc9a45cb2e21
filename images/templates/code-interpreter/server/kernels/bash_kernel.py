"""The bash kernel: one shell that goes on from execution to execution. What a command exits with, when it is not 0, is an error."""

from __future__ import annotations

import shlex
import sys
from typing import Any

from child_kernel import ChildKernel
from ipykernel.kernelapp import IPKernelApp

# Requests come as two texts that end with NUL: the mark, or nothing, and what to run
LOOP = r"""
while IFS= read -r -d '' __roost_mark <&{requests} && IFS= read -r -d '' __roost_code <&{requests}; do
  if [ -z "$__roost_mark" ]; then eval "$__roost_code"; continue; fi
  eval "$__roost_code" {requests}<&- {answers}>&-
  __roost_status=$?
  printf '%s' "$__roost_mark"
  printf '%s' "$__roost_mark" >&2
  if [ $__roost_status -eq 0 ]; then
    printf '{{}}\n' >&{answers}
  else
    printf '{{"error":{{"name":"ExitStatus","value":"exit status %d","traceback":["exit status %d"]}}}}\n' $__roost_status $__roost_status >&{answers}
  fi
done
"""


class BashKernel(ChildKernel):
    implementation = "bash"
    language_info = {"name": "bash", "mimetype": "text/x-sh", "file_extension": ".sh"}

    def command(self, requests: int, answers: int) -> list[str]:
        return ["bash", "--noprofile", "--norc", "-c", LOOP.format(requests=requests, answers=answers)]

    def encode(self, request: dict[str, Any]) -> bytes:
        if "mark" in request:
            mark, code = request["mark"], request["code"]
        else:
            mark, code = "", _assignment(request["name"], request["value"])
        return mark.encode() + b"\0" + code.replace("\0", "").encode() + b"\0"


def _assignment(name: str, value: str | None) -> str:
    if not name.isidentifier():
        return ":"  # no variable of a shell
    return f"unset {name}" if value is None else f"export {name}={shlex.quote(value)}"


if __name__ == "__main__":
    IPKernelApp.launch_instance(kernel_class=BashKernel, argv=sys.argv[1:])
