"""An interpreter of pickles that hold data only.

The machine of a pickle is a stack, a memo and some sixty instructions. Of these, the ones that store data are carried
out here, and names are looked up in a table of the caller: no module is imported, no object of Python is built by a
name that the file chooses, and nothing that the file brings along is ever called.
"""

import pickletools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, final


@final
class Inert:
    """Stands for an object of another program: it keeps what was stored and does nothing.

    kind:      module and name of its class.
    arguments: what it was made of.
    state:     what was stored of it afterwards.
    """

    def __init__(self, kind: str, arguments: tuple[Any, ...] = ()) -> None:
        self.kind, self.arguments = kind, arguments
        self.state: Any = None


@final
class Call:
    """A name in a pickle that may be called: with one of our own functions behind it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function


def unpickle(data: bytes, names: Callable[[str], Any], persistent: Callable[[Any], Any]) -> Any:
    """The object that a pickle describes: dictionaries, lists, tuples, sets, numbers, texts, and what the table makes.

    Args:
        data: the pickle.
        names: what stands for "module.name"; a `Call` if it may be called. Any other is a NotImplementedError.
        persistent: what stands for an object that is stored elsewhere.

    Raises:
        NotImplementedError: a name that is not in the table, or an instruction that data never need.
        ValueError: it is cut off, or its instructions do not fit together.
    """
    machine = _Machine(names, persistent)
    try:
        for instruction, argument, position in pickletools.genops(data):
            name = instruction.name
            if name == "STOP":
                break
            try:
                act = _ACTS[name]
            except KeyError:
                raise NotImplementedError(f"something by the instruction {name} at byte {position}") from None
            act(machine, argument)
        return machine.stack.pop()
    except NotImplementedError:
        raise
    except (LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, Warning) as error:
        raise ValueError(f"its pickle contradicts itself: {type(error).__name__} {error}") from None


@final
class _Machine:
    """The stack, what it held before each open bracket, and the memo."""

    def __init__(self, names: Callable[[str], Any], persistent: Callable[[Any], Any]) -> None:
        self.names, self.persistent = names, persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def top(self, kind: type) -> Any:
        """The value on top, which must be of that kind exactly: nothing else may be filled or changed."""
        value = self.stack[-1]
        if type(value) is not kind:
            raise ValueError(f"a {kind.__name__} was expected, not a {type(value).__name__}")
        return value

    def replace(self, n: int) -> None:
        items = tuple(self.stack[len(self.stack) - n :])
        if len(items) != n:
            raise ValueError(f"{n} values were expected")
        del self.stack[len(self.stack) - n :]
        self.push(items)

    def extend(self, items: list[Any]) -> None:
        self.top(list).extend(items)

    def fill(self, pairs: list[Any]) -> None:
        target = self.top(dict)
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            check_keys([key])
            target[key] = value

    def add(self, items: list[Any]) -> None:
        check_keys(items)
        self.top(set).update(items)

    def call(self) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, Call) or type(arguments) is not tuple:
            raise NotImplementedError(f"a call of {type(name).__name__}")
        self.push(name.function(*arguments))

    def build(self) -> None:
        state, value = self.stack.pop(), self.stack[-1]
        if isinstance(value, Inert):
            value.state = state
        elif type(value) is not dict:  # attributes of a dictionary are not needed; of anything else, suspicious
            raise NotImplementedError(f"to change the state of a {type(value).__name__}")

    def named(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise ValueError("a name that is not a text")
        self.push(self.names(f"{module}.{name}"))


def check_keys(keys: Iterable[Any]) -> None:
    """Only plain keys: the hash of a tuple in a tuple in a tuple … could exhaust the stack of this process."""
    for key in keys:
        if key is not None and type(key) not in (str, int, float, bool, bytes):
            raise ValueError(f"a {type(key).__name__} as a key")


def _stacked_name(machine: _Machine, _: Any) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.named(module, name)


def _set_item(machine: _Machine, _: Any) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    machine.fill([key, value])


def _dict(machine: _Machine, _: Any) -> None:
    pairs = machine.since_mark()
    machine.push({})
    machine.fill(pairs)


def _pop(machine: _Machine, _: Any) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.since_mark()


_Act = Callable[[_Machine, Any], Any]
_LITERALS = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
)
_ACTS: Mapping[str, _Act] = {
    **dict.fromkeys(_LITERALS, _Machine.push),
    **dict.fromkeys(("PROTO", "FRAME"), lambda m, _: None),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda m, place: m.memo.__setitem__(place, m.stack[-1])),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, place: m.push(m.memo[place])),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda m, _: m.call()),
    "MEMOIZE": lambda m, _: m.memo.__setitem__(len(m.memo), m.stack[-1]),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "MARK": lambda m, _: m.mark(),
    "POP": _pop,
    "POP_MARK": lambda m, _: m.since_mark(),
    "DUP": lambda m, _: m.push(m.stack[-1]),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "TUPLE1": lambda m, _: m.replace(1),
    "TUPLE2": lambda m, _: m.replace(2),
    "TUPLE3": lambda m, _: m.replace(3),
    "TUPLE": lambda m, _: m.push(tuple(m.since_mark())),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "LIST": lambda m, _: m.push(m.since_mark()),
    "APPEND": lambda m, _: m.extend([m.stack.pop()]),
    "APPENDS": lambda m, _: m.extend(m.since_mark()),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "DICT": _dict,
    "SETITEM": _set_item,
    "SETITEMS": lambda m, _: m.fill(m.since_mark()),
    "EMPTY_SET": lambda m, _: m.push(set()),
    "ADDITEMS": lambda m, _: m.add(m.since_mark()),
    "GLOBAL": lambda m, name: m.named(*name.split(" ", 1)),
    "STACK_GLOBAL": _stacked_name,
    "BUILD": lambda m, _: m.build(),
    "BINPERSID": lambda m, _: m.push(m.persistent(m.stack.pop())),
}
