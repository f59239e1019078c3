"""What a result was made with: a dict that stays as it is."""

from __future__ import annotations

import copy
from typing import Any, NoReturn


class Params(dict[str, Any]):
    """A dict that can only be read, as can dicts in it; ``copy()`` and ``|`` give plain ones.

    For JSON, pickle and ``isinstance(…, dict)`` it is a dict.
    """

    @classmethod
    def of(cls, values: dict[str, Any]) -> Params:
        """A deep copy."""
        return cls({name: _settled(value) for name, value in copy.deepcopy(values).items()})

    def _refuse(self, *args: Any, **keywords: Any) -> NoReturn:
        raise TypeError(
            "params cannot be changed; others are given by dataclasses.replace(factors, params=factors.params | {…})"
        )

    __setitem__ = __delitem__ = __ior__ = update = setdefault = pop = popitem = clear = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)

    def __copy__(self) -> Params:
        return self


def _settled(value: Any) -> Any:
    return Params({name: _settled(part) for name, part in value.items()}) if isinstance(value, dict) else value
