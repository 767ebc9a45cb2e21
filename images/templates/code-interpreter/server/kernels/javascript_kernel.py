"""The JavaScript kernel: Node.js, as its own prompt evaluates (`javascript_child.cjs`)."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from child_kernel import ChildKernel
from ipykernel.kernelapp import IPKernelApp

CHILD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "javascript_child.cjs")


class JavascriptKernel(ChildKernel):
    implementation = "javascript"
    language_info = {"name": "javascript", "mimetype": "text/javascript", "file_extension": ".js"}

    def command(self, requests: int, answers: int) -> list[str]:
        return ["node", CHILD, str(requests), str(answers)]

    def encode(self, request: dict[str, Any]) -> bytes:
        return json.dumps(request).encode() + b"\n"


if __name__ == "__main__":
    IPKernelApp.launch_instance(kernel_class=JavascriptKernel, argv=sys.argv[1:])
