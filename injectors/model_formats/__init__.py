"""Layouts of model files, one module a format. Nothing here changes a file, and none is read whole.

`read` tells the layout of one file, whatever its format; `mutations.jobs` what a mutation does to which files, as file_agent.py
carries it out.
"""

from . import gguf, onnx, pytorch, safetensors
from .layout import HEADER_LIMIT, BreaksOff, Layout, Source, Unreadable

ONNX = b"\x08"  # its first field, the version
KNOWN = "safetensors, GGUF, ONNX and PyTorch's zip"


def read(source: Source) -> Layout:
    """By what the file begins with, never by its name. Raises Unreadable."""
    start = source.read(0, 16)
    if start[:4] == gguf.MAGIC:
        return gguf.read(source)
    if start[:4] == pytorch.MAGIC:
        return pytorch.read(source)
    # Before all that follows: the length of a header may begin as anything else does.
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= HEADER_LIMIT:
        return safetensors.read(source)
    _refuse_known(start)
    if start[8:9] == b"{" and start[:1] != ONNX:
        return safetensors.read(source)
    if start[:1] == ONNX:
        try:
            return onnx.read(source)
        except BreaksOff as problem:
            raise Unreadable(f"this begins as an ONNX model and is damaged already: {problem}") from problem
    raise Unreadable(f"of no known format ({KNOWN}), or damaged already: its first bytes are {start[:8].hex(' ')}")


def _refuse_known(start: bytes) -> None:
    """What is no model, or none that can be edited, is told by name. Raises Unreadable."""
    if start.startswith(b"version https"):
        raise Unreadable("this is a git-lfs pointer, not the file that it points to")
    if start.lstrip()[:1] == b"<":
        raise Unreadable("this is a page of HTML or XML, not a model")
    if start[:1] == b"\x80" and start[1:2] in {b"\2", b"\3", b"\4", b"\5"}:
        raise Unreadable(f"this is a bare pickle, as PyTorch before 1.6 wrote them; {KNOWN} can be edited")
    if len(start) <= safetensors.LEAST:
        raise Unreadable(f"the file has {len(start)} bytes, too few for any known format ({KNOWN})")
