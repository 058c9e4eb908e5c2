"""What makes an output: a function, and the version of its code, told from the code itself.

That version is the same in every process and run of one Python version, whatever lines and comments the
source has; another Python may compile the same source to another version.
"""

import hashlib
from collections.abc import Callable, Iterable
from types import CellType, CodeType, EllipsisType, FunctionType, ModuleType, NoneType
from typing import Any, Final

import msgspec

from actors.errors import DefinitionError

LENGTH: Final = 32
PLAIN: Final = (str, bytes, bool, float, complex, NoneType, EllipsisType)


class Origin(msgspec.Struct, frozen=True):
    """A function, by its module and qualified name, and its version."""

    function: str
    version: str


def origin_of(function: Callable[..., Any], code_version: str | None = None) -> Origin:
    """What the outputs of a function are made by; its version is ``code_version``, or else its fingerprint.

    One inside another function, or a lambda, has both: there may be several of its name.

    Raises:
      DefinitionError: it is no plain function, or its fingerprint is needed and cannot be taken.
    """
    if not isinstance(function, FunctionType):
        raise DefinitionError("it is no plain function, so what it makes may depend on more than its input")
    name = f"{function.__module__}.{function.__qualname__}"
    if code_version is not None and "<" not in name:
        return Origin(name, code_version)
    told = fingerprint(function)
    return Origin(name, told if code_version is None else f"{code_version} {told}")


def fingerprint(function: FunctionType) -> str:
    """A text that is another one as soon as the function itself is changed.

    It tells its instructions, constants and defaults, and the constants and functions that it closes over. It
    does not tell what it calls, nor what it reads of its module, its payload's type or the world.

    Raises:
      DefinitionError: it closes over, or has as a default, a value that may change.
    """
    told = repr(_Teller().tell(function))
    return hashlib.sha256(told.encode("utf-8", "backslashreplace")).hexdigest()[:LENGTH]


class _Teller:
    """Tells values as nested tuples of texts; one that it is inside of is told by its place."""

    def __init__(self) -> None:
        self._inside: list[int] = []

    def tell(self, value: Any) -> Any:
        if id(value) in self._inside:
            return "outer", str(self._inside.index(id(value)))
        self._inside.append(id(value))
        try:
            return type(value).__name__, self._contents(value)
        finally:
            self._inside.pop()

    def _contents(self, value: Any) -> Any:
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, CodeType):
            return self._code(value)
        if isinstance(value, type) or isinstance(getattr(value, "__self__", None), ModuleType):
            return value.__module__, value.__qualname__  # as what it calls: by name
        if type(value) is tuple:
            return self._all(value)
        if type(value) is frozenset:  # its order is another one in every process
            return sorted(self._all(value), key=repr)
        if type(value) is int:
            return hex(value)  # as that has no limit of digits
        if type(value) in PLAIN:
            return repr(value)
        kind = type(value).__qualname__
        raise DefinitionError(f"it holds a {kind}: define it at the top level, and say its code_version")

    def _function(self, function: FunctionType) -> Any:
        named = tuple(sorted((function.__kwdefaults__ or {}).items()))
        cells = [self._cell(cell) for cell in function.__closure__ or ()]
        return self.tell(function.__code__), self.tell(function.__defaults__), self.tell(named), cells

    def _code(self, code: CodeType) -> Any:
        counts = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
        names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
        return code.co_code, code.co_exceptiontable, counts, names, self._all(code.co_consts)

    def _cell(self, cell: CellType) -> Any:
        try:
            return self.tell(cell.cell_contents)
        except ValueError:  # it is not filled yet: the function itself, as it is being defined
            return "empty"

    def _all(self, values: Iterable[Any]) -> list[Any]:
        return [self.tell(one) for one in values]
