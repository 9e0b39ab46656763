"""Reads the pickle in a torch file as plain data: nothing that it names is imported, created or called.

A pickle is a program for a stack machine. `pickletools` of the standard library splits it into instructions; the
machine here executes those that data need. It returns descriptions instead of objects: of a tensor the position of its
elements, of an object of a known library its attributes. Any other name in the program would be called by unpickling;
such a file is refused, with that name.

Time and memory are bounded by the number of instructions and the length of the pickle, since objects that are used
again are shared, never copied. Keys of dictionaries are converted to text, so that they can't be nested, nor chosen to
have equal hashes. Only text is ever looked up: computing the hash of a deeply nested tuple ends the process.
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
"""2.5 times as many as in an XTTS-v2 with the state of its optimizer (3,852 tensors); they take 0.5 s."""
MAX_ARGUMENTS = 64
MAX_NAME = 200


@dataclass(frozen=True, slots=True)
class Name:
    """A class or function that the pickle names, for example `collections.OrderedDict`."""

    path: str


@dataclass(frozen=True, slots=True)
class Storage:
    """The storage of one or more tensors.

    Attributes:
        dtype: torch's name, or None for bytes.
        key: Name of its record in the archive.
    """

    dtype: str | None
    key: str


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor as described in the file, unchecked. Offset and stride are in elements."""

    storage: Any
    offset: Any
    shape: Any
    stride: Any
    dtype: str | None = None


@dataclass(slots=True)
class PickledObject:
    """An object: its class, the arguments of its constructor, and its state, usually a dictionary of attributes."""

    path: str
    arguments: tuple[Any, ...] = ()
    state: Any = None


def load(stream: BytesIO) -> Any:
    """Read one pickle.

    Returns:
        Text, numbers, bytes, None, lists (also for sets), tuples, dictionaries with text as keys, and the classes
        above. The same object may occur several times, also inside itself.

    Raises:
        HoldsCode: Unpickling would execute code.
        UnreadableModelFile: It is damaged, too large, or uses instructions that torch does not write.
    """
    return next(load_all(stream))


def load_all(stream: BytesIO) -> Iterator[Any]:
    """Read consecutive pickles, as `load`; `MAX_INSTRUCTIONS` is the bound for all together."""
    executed = count(1)
    while True:
        yield _load(stream, executed)


def _load(stream: BytesIO, executed: Iterator[int]) -> Any:
    machine = _Machine()
    try:
        for instruction, argument, _offset in pickletools.genops(stream):
            if next(executed) > MAX_INSTRUCTIONS:
                raise UnreadableModelFile(
                    f"its list of contents has more than {MAX_INSTRUCTIONS:,} instructions", DAMAGED
                )
            execute = _INSTRUCTIONS.get(instruction.name)
            if execute is None:
                name = instruction.name
                raise UnreadableModelFile(f"its list of contents uses {name}, which torch does not write", DAMAGED)
            execute(machine, argument)
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

    def memoize(self, number: int | None) -> None:
        self.memo[len(self.memo) if number is None else number] = self.stack[-1]

    def recall(self, number: int) -> None:
        self.stack.append(self.memo[number])

    def pop_mark(self) -> list[Any]:
        """Pop the values above the last mark."""
        mark = self.marks.pop()
        popped = self.stack[mark:]
        del self.stack[mark:]
        return popped

    def pop(self, count: int) -> list[Any]:
        """Pop the last values."""
        popped = self.stack[-count:]
        if len(popped) < count:
            raise IndexError
        del self.stack[-count:]
        return popped

    def extend(self, values: list[Any]) -> None:
        if isinstance(target := self.stack[-1], list):
            target.extend(values)

    def update(self, flat: list[Any]) -> None:
        if isinstance(target := self.stack[-1], dict):
            target.update(_pairs(flat))

    def build(self, _argument: None) -> None:
        """Set the state of an object. That of tensors and dictionaries is dropped."""
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


# --- known classes and functions -------------------------------------------------------------------------------------

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
"""Libraries whose objects are read as plain data: trainers save their configuration with them."""

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
    """A numpy scalar; trainers save losses as such."""
    order = ">" if isinstance(dtype.state, tuple) and dtype.state[1] == ">" else "<"
    code = {"f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "b1": "?"}[_text(dtype.arguments[0])]
    return struct.unpack(order + code, content)[0]


def _encoded(text: str, _encoding: Any = "latin1") -> bytes:
    """Bytes as in pickle protocols 0 to 2; long ones are dropped."""
    return text.encode("latin1") if len(text) <= 16 else b""


def _empty() -> dict[str, Any]:
    """An empty dictionary. Arguments are an error: a pickle could have them copied again and again."""
    return {}


def _first(value: Any = (), *_others: Any) -> Any:
    return value


_TENSORS: Mapping[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_type,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
}
_CALLS: Mapping[str, Callable[..., Any]] = {
    **_TENSORS,
    "torch._tensor._rebuild_from_type_v2": lambda name, _kind, args, *_others: _TENSORS[name.path](*_arguments(args)),
    "torch.Size": _first,
    "torch.device": _first,
    "collections.OrderedDict": _empty,
    "collections.Counter": lambda *_counts: {},
    "collections.defaultdict": lambda *_factory: {},
    "builtins.set": _first,
    "builtins.frozenset": _first,
    "builtins.list": _first,
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
    """A known class or function.

    Raises:
        HoldsCode: It is not known to be harmless.
        UnreadableModelFile: It is an unsupported kind of tensor.
    """
    if len(_text(module)) + len(_text(name)) > MAX_NAME:
        raise ValueError
    path = f"{_REAL_MODULES.get(module, module)}.{name}"
    if any(path in known for known in (_CALLS, _STORAGES, _DTYPES, _CLASSES)):
        return Name(path)
    if f"{module}.".startswith(_CONFIGURATIONS) and name.isidentifier() and name[0].isupper():
        return Name(path)
    if path.startswith("torch._utils._rebuild_"):
        raise UnreadableModelFile(
            f"it has tensors of an unsupported kind ({quoted(path)})",
            "Save it with float32, float16 or bfloat16 weights.",
        )
    shown = path if path.replace(".", "_").isidentifier() and path.isascii() else quoted(path)
    raise HoldsCode(
        f"it contains code: unpickling it would run {shown}",
        "Nothing in it was run. Don't load it with other programs unless you know its author. The author can save only "
        "the weights: torch.save(model.state_dict(), …), or safetensors.",
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _called(name: Any, arguments: Any) -> Any:
    if not isinstance(name, Name):
        raise TypeError
    call = _CALLS.get(name.path)
    return PickledObject(name.path, _arguments(arguments)) if call is None else call(*_arguments(arguments))


def _object(kind: Any, *arguments: Any) -> Any:
    return _called(kind, arguments)


def _arguments(value: Any) -> tuple[Any, ...]:
    """Check that a value is a tuple of at most `MAX_ARGUMENTS`."""
    if not isinstance(value, tuple) or len(value) > MAX_ARGUMENTS:
        raise TypeError
    return value


def _storage(persistent_id: Any) -> Storage:
    kind, storage, key, *_others = _arguments(persistent_id)
    if kind != "storage" or not isinstance(key, str) or len(key) > MAX_NAME:
        raise ValueError
    return Storage(_STORAGES[storage.path], key)


# --- instructions ----------------------------------------------------------------------------------------------------


def _pushing(make: Callable[[_Machine, Any], Any]) -> Callable[[_Machine, Any], None]:
    """An instruction that pushes a new value."""
    return lambda machine, argument: machine.stack.append(make(machine, argument))


_CONSTANTS = (
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8",
)  # fmt: skip

_PUSHED: Mapping[str, Callable[[_Machine, Any], Any]] = {
    "NONE": lambda _machine, _: None,
    "NEWTRUE": lambda _machine, _: True,
    "NEWFALSE": lambda _machine, _: False,
    "EMPTY_TUPLE": lambda _machine, _: (),
    "EMPTY_LIST": lambda _machine, _: [],
    "EMPTY_SET": lambda _machine, _: [],
    "EMPTY_DICT": lambda _machine, _: {},
    "DUP": lambda machine, _: machine.stack[-1],
    "TUPLE": lambda machine, _: tuple(machine.pop_mark()),
    "TUPLE1": lambda machine, _: tuple(machine.pop(1)),
    "TUPLE2": lambda machine, _: tuple(machine.pop(2)),
    "TUPLE3": lambda machine, _: tuple(machine.pop(3)),
    "LIST": lambda machine, _: machine.pop_mark(),
    "FROZENSET": lambda machine, _: machine.pop_mark(),
    "DICT": lambda machine, _: _pairs(machine.pop_mark()),
    "GLOBAL": lambda _machine, name: _named(*name.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: _named(*machine.pop(2)),
    "INST": lambda machine, name: _called(_named(*name.split(" ", 1)), tuple(machine.pop_mark())),
    "OBJ": lambda machine, _: _object(*machine.pop_mark()),
    "REDUCE": lambda machine, _: _called(*machine.pop(2)),
    "NEWOBJ": lambda machine, _: _called(*machine.pop(2)),
    "NEWOBJ_EX": lambda machine, _: _called(*machine.pop(3)[:2]),
    "BINPERSID": lambda machine, _: _storage(machine.stack.pop()),
}

_INSTRUCTIONS: Mapping[str, Callable[[_Machine, Any], Any]] = {
    **dict.fromkeys(_CONSTANTS, _Machine.push),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.memoize),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.recall),
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda _machine, _: None),
    **{name: _pushing(make) for name, make in _PUSHED.items()},
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "POP": lambda machine, _: machine.stack.pop(),
    "POP_MARK": lambda machine, _: machine.pop_mark(),
    "APPEND": lambda machine, _: machine.extend(machine.pop(1)),
    "APPENDS": lambda machine, _: machine.extend(machine.pop_mark()),
    "ADDITEMS": lambda machine, _: machine.extend(machine.pop_mark()),
    "SETITEM": lambda machine, _: machine.update(machine.pop(2)),
    "SETITEMS": lambda machine, _: machine.update(machine.pop_mark()),
    "BUILD": _Machine.build,
}
