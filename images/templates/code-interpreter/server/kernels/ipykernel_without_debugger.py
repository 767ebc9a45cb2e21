"""Imported first: nobody debugs over these kernels' sockets, and loading the debugger is a good part of a kernel's start."""

import sys

sys.modules["debugpy"] = None  # type: ignore[assignment]
import ipykernel.ipkernel  # noqa: E402, F401

del sys.modules["debugpy"]
