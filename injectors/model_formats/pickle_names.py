"""Which tensor lies in which storage, read from the pickle of a PyTorch file without unpickling it.

The opcodes are walked over a stack of marks, texts and numbers; nothing is imported, nothing is called, so that a file which
would run code when loaded runs none here. Source: the protocol as the standard library's pickletools documents it.
"""

import itertools
import math
import pickletools
from typing import Any, NamedTuple

from .layout import Unreadable

MOST_OPCODES = 1 << 22
MOST_DIMENSIONS = 64
LARGEST = 1 << 62
STORAGES = {
    "FloatStorage": "F32",
    "DoubleStorage": "F64",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "Float8_e4m3fnStorage": "F8_E4M3",
    "Float8_e5m2Storage": "F8_E5M2",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
REBUILD = ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor")
PARAMETER = ("torch._utils _rebuild_parameter", "torch._utils _rebuild_parameter_with_state")


class Global(NamedTuple):
    """A name of a module's, never imported."""

    name: str


class Stored(NamedTuple):
    """The tuple that stands for a storage: dtype, key (the entry `data/KEY`), number of elements."""

    dtype: str
    key: str
    elements: int


class Named(NamedTuple):
    """A tensor: `first` is the index of its first element in the storage."""

    name: str
    storage: Stored
    first: int
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


class _Unnamed(NamedTuple):
    storage: Stored
    first: int
    shape: tuple[int, ...]


MARK, OTHER = object(), object()


def tensors(pickle: bytes) -> list[Named]:
    """Every contiguous tensor that a dictionary names, in the order of the file. Raises Unreadable."""
    walk = _Walk()
    try:
        for opcode, argument, _ in itertools.islice(pickletools.genops(pickle), MOST_OPCODES):
            walk.step(opcode, argument)
    except Exception as problem:  # noqa: BLE001 - pickletools raises anything on a hostile stream
        raise Unreadable(f"data.pkl cannot be read ({type(problem).__name__}: {problem})") from None
    return walk.found


class _Walk:
    """The pickle machine's stack and memo, with stand-ins for all that it would build."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.found: list[Named] = []

    def step(self, opcode: Any, argument: Any) -> None:
        name = opcode.name
        if "PUT" in name or name == "MEMOIZE":
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = self.stack[-1]
        elif name in {"GET", "BINGET", "LONG_BINGET"}:
            self.stack.append(self.memo[argument])
        elif name in {"GLOBAL", "STACK_GLOBAL", "MARK"}:
            self._push(name, argument)
        elif name in {"SETITEM", "SETITEMS"}:
            self._assign(self._to_mark() if name == "SETITEMS" else [self.stack.pop(-2), self.stack.pop()])
        elif name in {"TUPLE", "EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}:
            self._tuple(name)
        elif name == "BINPERSID":
            self.stack.append(_stored(self.stack.pop()))
        elif name == "REDUCE":
            arguments, called = self.stack.pop(), self.stack.pop()
            self.stack.append(_called(called, arguments))
        else:
            self._other(opcode, argument)

    def _push(self, name: str, argument: Any) -> None:
        if name == "STACK_GLOBAL":
            attribute, module = self.stack.pop(), self.stack.pop()
            argument = f"{module} {attribute}"
        self.stack.append(MARK if name == "MARK" else Global(argument))

    def _to_mark(self) -> list[Any]:
        at = len(self.stack) - 1 - next(i for i, each in enumerate(reversed(self.stack)) if each is MARK)
        inside = self.stack[at + 1 :]
        del self.stack[at:]
        return inside

    def _tuple(self, name: str) -> None:
        if name == "TUPLE":
            inside = self._to_mark()
        else:
            length = 0 if name == "EMPTY_TUPLE" else int(name[-1])
            inside = [self.stack.pop() for _ in range(length)][::-1]
        self.stack.append(tuple(inside))

    def _assign(self, items: list[Any]) -> None:
        """Keys and values in turn, into the dictionary below them."""
        for key, value in zip(items[::2], items[1::2], strict=False):
            if isinstance(key, str) and isinstance(value, _Unnamed):
                self.found.append(Named(key, *value))

    def _other(self, opcode: Any, argument: Any) -> None:
        """Texts and numbers are kept, all else is a stand-in; the stack moves as pickletools says."""
        before, after = list(opcode.stack_before), list(opcode.stack_after)
        if any(each.name == "mark" for each in before):
            self._to_mark()
            before = before[: next(i for i, each in enumerate(before) if each.name == "mark")]
        for _ in before:
            self.stack.pop()
        if len(before) == len(after) == 1:  # BUILD, APPENDS and the like give back what they took
            self.stack.append(OTHER)
            return
        for _ in after:
            self.stack.append(argument if isinstance(argument, (str, int)) else OTHER)


def _stored(persistent: Any) -> Any:
    """`("storage", type, key, location, elements)`, as torch.save writes it."""
    if (
        isinstance(persistent, tuple)
        and len(persistent) >= 5
        and persistent[0] == "storage"
        and isinstance(persistent[1], Global)
    ):
        kind = persistent[1].name.rpartition(" ")[2]
        if kind in STORAGES and isinstance(persistent[2], str) and isinstance(persistent[4], int):
            return Stored(STORAGES[kind], persistent[2], persistent[4])
    return OTHER


def _called(called: Any, arguments: Any) -> Any:
    """The tensor that a call would rebuild, where it is contiguous; a parameter is its tensor."""
    if not isinstance(called, Global) or not isinstance(arguments, tuple):
        return OTHER
    if called.name in PARAMETER and arguments and isinstance(arguments[0], _Unnamed):
        return arguments[0]
    if called.name not in REBUILD or len(arguments) < 4 or not isinstance(arguments[0], Stored):
        return OTHER
    storage, first, shape, strides = arguments[:4]
    if not all(map(_few_numbers, ((first,), shape, strides))):
        return OTHER
    contiguous = tuple(math.prod(shape[at + 1 :]) for at in range(len(shape)))
    return _Unnamed(storage, first, shape) if strides == contiguous or math.prod(shape) <= 1 else OTHER


def _few_numbers(found: Any) -> bool:
    short = isinstance(found, tuple) and len(found) <= MOST_DIMENSIONS
    return short and all(isinstance(each, int) and 0 <= each <= LARGEST for each in found)
