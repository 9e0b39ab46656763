"""Reads the pickle inside a torch file as plain data: nothing that it names is imported, built or called.

A pickle is a program for a small stack machine. `pickletools` of the standard library takes it apart into
instructions; this machine knows those that data need, and makes descriptions of what would be objects: of a tensor
where its bytes are, of an object of the few libraries that save their configuration its attributes. Anything else that
the program names would run if the file were loaded the usual way; such a file is refused, with that name.

Time and memory are bounded by the number of instructions and the length of the pickle, since each instruction takes
no more than what it made or put aside: whatever is used again is shared, never copied. Keys of dictionaries become
text, so that no key can be nested, or chosen so that many collide; and nothing but text is ever looked up, because the
hash of a tuple that is nested deep enough ends the process.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from itertools import count
from typing import Any

from engines.modelfiles.tensor_file import DAMAGED, ITEM_BYTES, HoldsCode, UnreadableModelFile, quoted

MAX_INSTRUCTIONS = 300_000
"""Two and a half times what a whole XTTS-v2 with the state of its optimizer needs (3,852 tensors); half a second."""
MAX_ARGUMENTS = 64
MAX_NAME = 200


@dataclass(frozen=True, slots=True)
class Name:
    """A class or function that the pickle mentions: `collections.OrderedDict`."""

    path: str


@dataclass(frozen=True, slots=True)
class Storage:
    """Bytes that tensors lie in.

    Attributes:
        dtype: torch's name, or None for plain bytes.
        key: Name of the record that holds them.
    """

    dtype: str | None
    key: str


@dataclass(frozen=True, slots=True)
class Tensor:
    """What the file says of a tensor, not checked yet; offset and stride count elements."""

    storage: Any
    offset: Any
    shape: Any
    stride: Any
    dtype: str | None = None


@dataclass(slots=True)
class PickledObject:
    """An object: its class, what it would be made from, and its state, most often a dictionary of its attributes."""

    path: str
    arguments: tuple[Any, ...] = ()
    state: Any = None


def load(stream: BytesIO) -> Any:
    """Read one pickle.

    Returns:
        Text, numbers, bytes, None, lists (of sets too), tuples, dictionaries with text as keys, and the classes above.
        Parts may occur several times in it, and contain themselves.

    Raises:
        HoldsCode: It would run something.
        Unreadable: It is damaged, too large, or does what no torch file does.
    """
    return next(several(stream))


def several(stream: BytesIO) -> Iterator[Any]:
    """Read pickles that follow one another, as `load`; all of them together have `MAX_INSTRUCTIONS`."""
    used = count(1)
    while True:
        yield _one(stream, used)


def _one(stream: BytesIO, used: Iterator[int]) -> Any:
    machine = _Machine()
    try:
        for instruction, argument, _place in pickletools.genops(stream):
            if next(used) > MAX_INSTRUCTIONS:
                raise UnreadableModelFile(f"its list of contents has more than {MAX_INSTRUCTIONS:,} parts", DAMAGED)
            step = _STEPS.get(instruction.name)
            if step is None:
                name = instruction.name
                raise UnreadableModelFile(f"its list of contents uses {name}, which no torch file does", DAMAGED)
            step(machine, argument)
        return machine.stack.pop()
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, struct.error):
        raise UnreadableModelFile("its list of contents is damaged", DAMAGED) from None


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def put_aside(self, number: int | None) -> None:
        self.memo[len(self.memo) if number is None else number] = self.stack[-1]

    def use_again(self, number: int) -> None:
        self.stack.append(self.memo[number])

    def since_mark(self) -> list[Any]:
        """Take what was put on the stack since the last mark."""
        mark = self.marks.pop()
        taken = self.stack[mark:]
        del self.stack[mark:]
        return taken

    def top(self, count: int) -> list[Any]:
        """Take so many."""
        taken = self.stack[-count:]
        if len(taken) < count:
            raise IndexError
        del self.stack[-count:]
        return taken

    def extend(self, values: list[Any]) -> None:
        if isinstance(target := self.stack[-1], list):
            target.extend(values)

    def update(self, flat: list[Any]) -> None:
        if isinstance(target := self.stack[-1], dict):
            target.update(_pairs(flat))

    def build(self, _argument: None) -> None:
        """Give an object its state. That of tensors and dictionaries does not matter here."""
        state = self.stack.pop()
        if isinstance(target := self.stack[-1], PickledObject):
            target.state = state


def _pairs(flat: list[Any]) -> dict[str, Any]:
    return {_key(key): value for key, value in zip(flat[::2], flat[1::2], strict=True)}


def _key(key: Any) -> str:
    if isinstance(key, str):
        return key
    if key is None or isinstance(key, float) or (isinstance(key, int) and key.bit_length() <= 64):
        return str(key)
    raise UnreadableModelFile("one of its dictionaries has keys that are neither text nor numbers", DAMAGED)


# --- what may be named -----------------------------------------------------------------------------------------------

_STORAGES: Mapping[str, str | None] = {
    f"torch.{name}Storage": dtype
    for name, dtype in {
        "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64",
        "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool",
        "ComplexFloat": "complex64", "ComplexDouble": "complex128", "Untyped": None,
    }.items()
} | {"torch.storage.UntypedStorage": None}  # fmt: skip

_DTYPES = {f"torch.{dtype}": dtype for dtype in ITEM_BYTES}

_CONFIGURATIONS = ("TTS.", "trainer.", "coqpit.", "omegaconf.")
"""Libraries whose objects are read as plain data: trainers save them beside the weights."""

_CLASSES = frozenset(
    {"argparse.Namespace", "builtins.dict", "builtins.float", "builtins.int", "builtins.object", "builtins.str",
     "numpy.dtype", "numpy.ndarray", "pathlib.PosixPath", "pathlib.WindowsPath", "torch.Tensor",
     "torch.nn.parameter.Parameter", "types.SimpleNamespace", "typing.Any"}
)  # fmt: skip

_REAL_MODULES = {"posix": "os", "nt": "os", "__builtin__": "builtins", "copy_reg": "copyreg", "torch.cuda": "torch"}


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_others: Any) -> Tensor:
    return Tensor(storage, offset, shape, stride)


def _tensor_of_type(storage: Any, offset: Any, shape: Any, stride: Any, *others: Any) -> Tensor:
    return Tensor(storage, offset, shape, stride, _DTYPES[others[2].path])


def _number(dtype: PickledObject, content: bytes) -> Any:
    """A number of numpy's: trainers save losses so."""
    order = ">" if isinstance(dtype.state, tuple) and dtype.state[1] == ">" else "<"
    code = {"f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "b1": "?"}[_text(dtype.arguments[0])]
    return struct.unpack(order + code, content)[0]


def _encoded(text: str, _encoding: Any = "latin1") -> bytes:
    """Bytes, as the older protocols write them; long ones are of no interest here."""
    return text.encode("latin1") if len(text) <= 16 else b""


def _empty() -> dict[str, Any]:
    """A dictionary before anything is in it. It takes no argument: each call would copy that one again."""
    return {}


def _same(value: Any = (), *_others: Any) -> Any:
    return value


_TENSORS: Mapping[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_type,
    "torch._utils._rebuild_parameter": _same,
    "torch._utils._rebuild_parameter_with_state": _same,
}
_CALLS: Mapping[str, Callable[..., Any]] = {
    **_TENSORS,
    "torch._tensor._rebuild_from_type_v2": lambda name, _kind, given, *_others: _TENSORS[name.path](*_few(given)),
    "torch.Size": _same,
    "torch.device": _same,
    "collections.OrderedDict": _empty,
    "collections.Counter": lambda *_counts: {},
    "collections.defaultdict": lambda *_factory: {},
    "builtins.set": _same,
    "builtins.frozenset": _same,
    "builtins.list": _same,
    "builtins.bytes": lambda *_content: b"",
    "builtins.bytearray": lambda *_content: b"",
    "_codecs.encode": _encoded,
    "copyreg._reconstructor": lambda kind, *_others: PickledObject(kind.path),
    "numpy.core.multiarray.scalar": _number,
    "numpy._core.multiarray.scalar": _number,
    "numpy.core.multiarray._reconstruct": lambda *_others: PickledObject("numpy.ndarray"),
    "numpy._core.multiarray._reconstruct": lambda *_others: PickledObject("numpy.ndarray"),
}


def _named(module: str, name: str) -> Name:
    """Raises: HoldsCode for whatever is not known to be data."""
    if len(_text(module)) + len(_text(name)) > MAX_NAME:
        raise ValueError
    path = f"{_REAL_MODULES.get(module, module)}.{name}"
    if any(path in known for known in (_CALLS, _STORAGES, _DTYPES, _CLASSES)):
        return Name(path)
    if f"{module}.".startswith(_CONFIGURATIONS) and name.isidentifier() and name[0].isupper():
        return Name(path)
    if path.startswith("torch._utils._rebuild_"):
        raise UnreadableModelFile(
            f"it has tensors of a kind that is not read here ({quoted(path)})",
            "Save it with plain float32, float16 or bfloat16 weights.",
        )
    shown = path if path.replace(".", "_").isidentifier() and path.isascii() else quoted(path)
    raise HoldsCode(
        f"it holds code: loaded the usual way it would run {shown}",
        "Nothing in it was run. Don't load it with anything else unless you know who made it. Who made it can save the "
        "weights alone: torch.save(model.state_dict(), …), or safetensors.",
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _called(name: Any, arguments: Any) -> Any:
    if not isinstance(name, Name):
        raise TypeError
    call = _CALLS.get(name.path)
    return PickledObject(name.path, _few(arguments)) if call is None else call(*_few(arguments))


def _object(kind: Any, *arguments: Any) -> Any:
    return _called(kind, arguments)


def _few(arguments: Any) -> tuple[Any, ...]:
    if not isinstance(arguments, tuple) or len(arguments) > MAX_ARGUMENTS:
        raise TypeError
    return arguments


def _storage(described: Any) -> Storage:
    kind, storage, key, *_others = _few(described)
    if kind != "storage" or not isinstance(key, str) or len(key) > MAX_NAME:
        raise ValueError
    return Storage(_STORAGES[storage.path], key)


# --- instructions ----------------------------------------------------------------------------------------------------


def _making(make: Callable[[_Machine, Any], Any]) -> Callable[[_Machine, Any], None]:
    """A step that puts what is made on the stack."""
    return lambda machine, argument: machine.stack.append(make(machine, argument))


_CONSTANTS = (
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8",
)  # fmt: skip

_MAKING: Mapping[str, Callable[[_Machine, Any], Any]] = {
    "NONE": lambda _machine, _: None,
    "NEWTRUE": lambda _machine, _: True,
    "NEWFALSE": lambda _machine, _: False,
    "EMPTY_TUPLE": lambda _machine, _: (),
    "EMPTY_LIST": lambda _machine, _: [],
    "EMPTY_SET": lambda _machine, _: [],
    "EMPTY_DICT": lambda _machine, _: {},
    "DUP": lambda machine, _: machine.stack[-1],
    "TUPLE": lambda machine, _: tuple(machine.since_mark()),
    "TUPLE1": lambda machine, _: tuple(machine.top(1)),
    "TUPLE2": lambda machine, _: tuple(machine.top(2)),
    "TUPLE3": lambda machine, _: tuple(machine.top(3)),
    "LIST": lambda machine, _: machine.since_mark(),
    "FROZENSET": lambda machine, _: machine.since_mark(),
    "DICT": lambda machine, _: _pairs(machine.since_mark()),
    "GLOBAL": lambda _machine, name: _named(*name.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: _named(*machine.top(2)),
    "INST": lambda machine, name: _called(_named(*name.split(" ", 1)), tuple(machine.since_mark())),
    "OBJ": lambda machine, _: _object(*machine.since_mark()),
    "REDUCE": lambda machine, _: _called(*machine.top(2)),
    "NEWOBJ": lambda machine, _: _called(*machine.top(2)),
    "NEWOBJ_EX": lambda machine, _: _called(*machine.top(3)[:2]),
    "BINPERSID": lambda machine, _: _storage(machine.stack.pop()),
}

_STEPS: Mapping[str, Callable[[_Machine, Any], Any]] = {
    **dict.fromkeys(_CONSTANTS, _Machine.push),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.put_aside),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.use_again),
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda _machine, _: None),
    **{name: _making(make) for name, make in _MAKING.items()},
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "POP": lambda machine, _: machine.stack.pop(),
    "POP_MARK": lambda machine, _: machine.since_mark(),
    "APPEND": lambda machine, _: machine.extend(machine.top(1)),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "ADDITEMS": lambda machine, _: machine.extend(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.update(machine.top(2)),
    "SETITEMS": lambda machine, _: machine.update(machine.since_mark()),
    "BUILD": _Machine.build,
}
