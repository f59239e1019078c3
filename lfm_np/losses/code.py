"""What tells two losses of one's own apart that have the same name and fields: a hash of what they compute."""

from __future__ import annotations

import dis
import hashlib
import types
from typing import Any

import numpy as np

from lfm_np.losses.protocol import Protocol

OWN = "lfm_np.losses."  # the modules of the library's losses


def code_of(loss: Any, protocol: Protocol, *more: str) -> str | None:
    """Hash of the formula, of the numbers that it reads, and of what else `sgd` reads from ``loss``.

    ``more`` names methods besides value and gradient. The same in every process of one Python, whose bytecode it has.
    None for the library's own losses, of which name and fields say all. Globals and closures count where they are
    numbers, tuples or arrays of numbers, or functions; what lies deeper, as in a module of one's own, does not.
    """
    methods = [getattr(type(loss), name, None) for name in ("value", "gradient", *more)]
    if all(str(part.__module__).startswith(OWN) for part in (type(loss), *methods) if part is not None):
        return None
    seen: dict[int, int] = {}
    found = repr((protocol, [_told(method, seen) for method in methods]))
    return hashlib.sha256(found.encode()).hexdigest()[:16]


def _told(value: Any, seen: dict[int, int]) -> Any:
    """``value`` as what has the same repr in every process. ``seen``: functions, which may call one another."""
    value = getattr(value, "py_func", value)  # what Numba has compiled
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return value
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biufc":
        return value.dtype.str, value.shape, hashlib.sha256(value.tobytes()).hexdigest()
    if isinstance(value, tuple):
        return type(value).__name__, getattr(value, "_fields", ()), [_told(part, seen) for part in value]
    if isinstance(value, frozenset):  # whose order changes from process to process
        return sorted(repr(_told(part, seen)) for part in value)
    if isinstance(value, types.CodeType):
        constants = [_told(part, seen) for part in value.co_consts]
        return value.co_code, value.co_exceptiontable, value.co_names, constants
    if isinstance(value, types.FunctionType):
        return _told_of_function(value, seen)
    return str(getattr(value, "__name__", type(value).__name__))


def _told_of_function(function: types.FunctionType, seen: dict[int, int]) -> Any:
    if str(function.__module__).startswith(OWN):
        return function.__module__, function.__qualname__
    if id(function) in seen:
        return seen[id(function)]
    seen[id(function)] = len(seen)
    names = sorted(_globals(function.__code__))
    outside = [(name, _told(function.__globals__.get(name), seen)) for name in names]
    inside = [_told(_content(cell), seen) for cell in function.__closure__ or ()]
    given = function.__defaults__, tuple(sorted((function.__kwdefaults__ or {}).items()))
    return _told(_without_docstring(function), seen), outside, inside, _told(given, seen)


def _without_docstring(function: types.FunctionType) -> types.CodeType:
    code = function.__code__
    documented = code.co_consts[:1] == (function.__doc__,)
    return code.replace(co_consts=(None, *code.co_consts[1:])) if documented else code


def _globals(code: types.CodeType) -> set[str]:
    """The globals that it reads, also within lambdas and comprehensions."""
    names = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    return names.union(*(_globals(part) for part in code.co_consts if isinstance(part, types.CodeType)))


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # nothing is assigned to it yet
        return None
