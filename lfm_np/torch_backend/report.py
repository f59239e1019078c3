"""The result of a cross-check: rows, a table, JSON and HTML."""

from __future__ import annotations

import html
import json
import os
from dataclasses import asdict, dataclass
from typing import Any

from lfm_np.atomic import replacing

_STYLE = """body{font:14px system-ui,sans-serif;margin:2em;max-width:70em}table{border-collapse:collapse}
td,th{padding:.3em .8em;text-align:left;border-bottom:1px solid #ddd}td.number{text-align:right;font-family:monospace}
.passed{color:#166534}.failed{color:#b91c1c;font-weight:bold}"""


@dataclass(frozen=True)
class Row:
    """One comparison.

    Parameters
    ----------
    part : str
        Model, weighting or loss, and dtype.
    what : str
        What was compared.
    error : float
        The largest difference, relative to the largest magnitude unless ``why`` says otherwise.
    tolerance : float
        What rounding may explain.
    why : str
        How the tolerance was derived.
    """

    part: str
    what: str
    error: float
    tolerance: float
    why: str

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance  # False for NaN


@dataclass(frozen=True)
class CrossCheck:
    """Rows of comparisons between the Numba side and a torch device; see `crosscheck`.

    Parameters
    ----------
    device : str
    rows : tuple of Row
    versions : dict
        Of the packages and the name of the device.
    seconds : float
    """

    device: str
    rows: tuple[Row, ...]
    versions: dict[str, str]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether every row did."""
        return bool(self.rows) and all(row.passed for row in self.rows)

    @property
    def failures(self) -> tuple[Row, ...]:
        """The rows that did not."""
        return tuple(row for row in self.rows if not row.passed)

    def __str__(self) -> str:
        lines = [("", "part", "what", "largest error", "tolerance", "tolerance is")]
        for row in self.rows:
            lines.append(("ok" if row.passed else "FAIL", row.part, row.what, *self._numbers(row), row.why))
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
        return "\n".join([*table, self._verdict()])

    @staticmethod
    def _numbers(row: Row) -> tuple[str, str]:
        return f"{row.error:.1e}", f"{row.tolerance:.1e}"

    def _verdict(self) -> str:
        result = "passed" if self.passed else f"FAILED in {len(self.failures)} of {len(self.rows)} rows"
        return f"{self.device}: {result} in {self.seconds:.1f} s"

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """JSON text of everything, written to ``path`` if there is one."""
        rows = [asdict(row) | {"passed": row.passed} for row in self.rows]
        whole: dict[str, Any] = {"device": self.device, "passed": self.passed, "seconds": self.seconds}
        text = json.dumps(whole | {"versions": self.versions, "rows": rows}, indent=1)
        if path is not None:
            _write(path, text + "\n")
        return text

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """A page without scripts or links, written to ``path`` if there is one."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        text = (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>lfm_np cross-check</title>'
            f"<style>{_STYLE}</style><h1>Cross-check: Numba and torch on {html.escape(self.device)}</h1>"
            f'<p class="{"passed" if self.passed else "failed"}">{html.escape(self._verdict())}</p>'
            f"<p>{html.escape(versions)}</p>{self._repr_html_()}</html>\n"
        )
        if path is not None:
            _write(path, text)
        return text

    def _repr_html_(self) -> str:
        head = "".join(
            f"<th>{name}" for name in ("verdict", "part", "what", "largest error", "tolerance", "derivation")
        )
        lines = []
        for row in self.rows:
            word = "passed" if row.passed else "failed"
            numbers = "".join(f'<td class="number">{number}' for number in self._numbers(row))
            texts = "".join(f"<td>{html.escape(text)}" for text in (row.part, row.what))
            lines.append(f'<tr><td class="{word}">{word}{texts}{numbers}<td>{html.escape(row.why)}')
        return f"<table><tr>{head}{''.join(lines)}</table>"


def _write(path: str | os.PathLike[str], text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())
