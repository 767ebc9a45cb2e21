"""Kernel messages as the lines that E2B's code interpreter SDKs read: one JSON object each. Pure: no kernel and no socket here."""

from __future__ import annotations

from typing import Any

Line = dict[str, Any]
Message = dict[str, Any]

# Keys under which the SDKs look for a form of a result
FORMS = {
    "text/plain": "text",
    "text/html": "html",
    "text/markdown": "markdown",
    "image/svg+xml": "svg",
    "image/png": "png",
    "image/jpeg": "jpeg",
    "application/pdf": "pdf",
    "text/latex": "latex",
    "application/json": "json",
    "application/javascript": "javascript",
    "e2b/data": "data",
    "e2b/chart": "chart",
}

# Base64, which Jupyter ends with a newline
BINARY_FORMS = {"png", "jpeg", "pdf"}


def line_of(message: Message) -> Line | None:
    """The line that a message of the kernel's output channel becomes, or None for one that users do not see."""
    kind, content = message["msg_type"], message["content"]
    if kind == "stream":
        return {"type": content["name"], "text": content["text"], "timestamp": message["header"]["date"].isoformat()}
    if kind == "execute_result":
        return result_of(content["data"], is_main=True)
    if kind == "display_data":
        return result_of(content["data"], is_main=False)
    if kind == "error":
        return error_of(content["ename"], content["evalue"], content["traceback"])
    if kind == "execute_input":
        return {"type": "number_of_executions", "execution_count": content["execution_count"]}
    return None


def result_of(forms: dict[str, Any], *, is_main: bool) -> Line:
    """`forms`: what the kernel offers, by media type. One that the SDKs have no name for goes into `extra`."""
    line: Line = {"type": "result", "is_main_result": is_main}
    extra: dict[str, Any] = {}
    for media_type, value in forms.items():
        name = FORMS.get(media_type)
        if name is None:
            extra[media_type] = value
        elif name in BINARY_FORMS:
            line[name] = value.strip()
        else:
            line[name] = value
    text = line.get("text")
    if isinstance(text, str) and len(text) >= 2 and text[0] == text[-1] == "'":
        line["text"] = text[1:-1]  # a string as its value, not as its Python literal: the SDKs expect it so
    if extra:
        line["extra"] = extra
    return line


def error_of(name: str, value: str, traceback: list[str]) -> Line:
    return {"type": "error", "name": name, "value": value, "traceback": "\n".join(traceback)}


def is_end_of(message: Message, request_id: str) -> bool:
    """Whether the kernel is done with a request, and has said all there is to say about it."""
    return (
        message["msg_type"] == "status"
        and message["content"]["execution_state"] == "idle"
        and message["parent_header"].get("msg_id") == request_id
    )
