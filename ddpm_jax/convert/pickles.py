"""A reader of pickles that allows numbers, strings and plain containers, and calls only the functions it is given.

A pickle is a program for a machine with a stack and a memory. This machine has only the instructions that weights
need, looks names up only in a table, and is bounded: its memory grows with the number of instructions, not with the
numbers in them; no container is ever copied, compared, hashed or printed; and no function outside the table is called.
Read next: `torch_files.py`.
"""

import io
import mmap
import pickletools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

_MOST = 2_000_000  # instructions; a tensor takes about thirty
_MOST_BITS = 128  # of a number; the first number of torch's old files has 77


# A function from a persistent id of a pickle to the value that it stands for.
Stored: TypeAlias = Callable[[tuple[Any, ...]], Any]


class Function(NamedTuple):
    """A function that a pickle may call."""

    function: Callable[..., Any]


class UnknownNameError(Exception):
    """Raised where a pickle asks for a name that is not in the table."""


def load(file: io.BytesIO | mmap.mmap, *, names: Mapping[str, Any], stored: Stored) -> Any:
    """The object that the pickle at the file's current position describes; the file is left at the pickle's end.

    Args:
      file: a file whose `read(n)` takes no more memory than it returns.
      names: `{"module.name": value}` of what a pickle may name; a `Function` may be called.
      stored: function from a persistent id to the value that it stands for.

    Raises:
      UnknownNameError: the pickle asks for a name that is not in `names`.
      Exception: a damaged pickle may raise any.
    """
    machine = _Machine(names, stored)
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):  # pyrefly: ignore[bad-argument-type]  # it reads an mmap too
        if count == _MOST:
            raise ValueError(f"more than {_MOST:,} instructions")
        step = _STEPS.get(opcode.name)
        if step is None:
            raise ValueError(f"the instruction {opcode.name}, which no file of weights needs")
        step(machine, argument)
    return machine.pop()


class _Machine:
    """The stack, the stacks below each mark, and the memory."""

    def __init__(self, names: Mapping[str, Any], stored: Stored) -> None:
        self.names, self.stored = names, stored
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memory: dict[int, Any] = {}

    def pop(self) -> Any:
        """Removes the topmost value and returns it."""
        if not self.stack:
            raise ValueError("an instruction without its values")
        return self.stack.pop()

    def top(self, kind: type) -> Any:
        """The topmost value, which must be of that type and stays on the stack."""
        if not self.stack or type(self.stack[-1]) is not kind:
            raise ValueError(f"an instruction for a {kind.__name__} without one")
        return self.stack[-1]

    def pop_to_mark(self) -> list[Any]:
        """Removes all values above the last mark and returns them."""
        if not self.below:
            raise ValueError("an instruction without its mark")
        values, self.stack = self.stack, self.below.pop()
        return values


def _push(machine: _Machine, value: Any) -> None:
    machine.stack.append(value)


def _push_number(machine: _Machine, value: int) -> None:
    if value.bit_length() > _MOST_BITS:
        raise ValueError("a number with very many digits")
    machine.stack.append(value)


def _mark(machine: _Machine, _: None) -> None:
    machine.below.append(machine.stack)
    machine.stack = []


def _tuple_of(count: int) -> Callable[[_Machine, None], None]:
    def step(machine: _Machine, _: None) -> None:
        values = [machine.pop() for _ in range(count)]
        machine.stack.append(tuple(reversed(values)))

    return step


def _put(machine: _Machine, index: int) -> None:
    value = machine.pop()
    machine.stack.append(value)
    machine.memory[index] = value


def _get(machine: _Machine, index: int) -> None:
    if index not in machine.memory:
        raise ValueError("a value that was not stored")
    machine.stack.append(machine.memory[index])


def _append(machine: _Machine, values: list[Any]) -> None:
    machine.top(list).extend(values)


def _set_items(machine: _Machine, values: list[Any]) -> None:
    target = machine.top(dict)
    for key, value in zip(values[::2], values[1::2], strict=True):
        if type(key) not in (str, int, float, bool, type(None)):
            raise ValueError(f"a {type(key).__name__} as the name of a value")
        target[key] = value


def _name(machine: _Machine, module: Any, name: Any) -> None:
    if type(module) is not str or type(name) is not str:
        raise ValueError("a name that is not text")
    if f"{module}.{name}" not in machine.names:
        raise UnknownNameError(f"{module}.{name}")
    machine.stack.append(machine.names[f"{module}.{name}"])


def _stack_global(machine: _Machine, _: None) -> None:
    name, module = machine.pop(), machine.pop()
    _name(machine, module, name)


def _call(machine: _Machine, _: None) -> None:
    arguments, function = machine.pop(), machine.pop()
    if type(function) is not Function or type(arguments) is not tuple:
        raise ValueError("a call of something that is not a function")
    machine.stack.append(function.function(*arguments))


def _build(machine: _Machine, _: None) -> None:
    """Drops the attributes of a dict, which are torch's metadata about the modules."""
    machine.pop()
    machine.top(dict)


def _load_stored(machine: _Machine, _: None) -> None:
    name = machine.pop()
    if type(name) is not tuple:
        raise ValueError("numbers without a name")
    machine.stack.append(machine.stored(name))


_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda machine, _: None),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "LONG4"), _push_number),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"), _push),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _get),
    "MEMOIZE": lambda machine, _: _put(machine, len(machine.memory)),
    "BINFLOAT": _push,
    "NONE": lambda machine, _: _push(machine, None),
    "NEWTRUE": lambda machine, _: _push(machine, True),
    "NEWFALSE": lambda machine, _: _push(machine, False),
    "EMPTY_DICT": lambda machine, _: _push(machine, {}),
    "EMPTY_LIST": lambda machine, _: _push(machine, []),
    "EMPTY_TUPLE": lambda machine, _: _push(machine, ()),
    "MARK": _mark,
    "TUPLE": lambda machine, _: _push(machine, tuple(machine.pop_to_mark())),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "APPEND": lambda machine, _: _append(machine, [machine.pop()]),
    "APPENDS": lambda machine, _: _append(machine, machine.pop_to_mark()),
    "SETITEM": lambda machine, _: _set_items(machine, [machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: _set_items(machine, machine.pop_to_mark()),
    "GLOBAL": lambda machine, name: _name(machine, *name.split(" ", 1)),
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _call,
    "BUILD": _build,
    "BINPERSID": _load_stored,
}
