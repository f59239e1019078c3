"""Run the commands and the Python code of pages, in their order; an error in a block is an error here.

python docs/run_page.py docs/tutorial.md        # in a temporary folder; what it installs, it installs

Blocks fenced as ``python`` share one namespace a page, blocks fenced as ``sh`` one folder. Those fenced as ``console``
hold commands after ``$ `` and what each must print, where ``…`` stands for anything. Lines before a block may say

    <!-- not run: REASON -->        it is only shown
    <!-- needs: NAME, NAME -->      packages, or data, that it takes besides those of the page
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]

_BLOCK = re.compile(r"^(?:<!-- ([^\n]*) -->\n+)?```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = "<end-of-output>"


class Block(NamedTuple):
    """A fenced block of a page, from its first line of code."""

    line: int
    language: str
    code: str
    note: str
    """What the comment before it says."""

    @property
    def runs(self) -> bool:
        return self.language in ("python", "sh", "console") and not self.note.startswith("not run: ")

    @property
    def needs(self) -> list[str]:
        """Packages, or "data", of the comment before it."""
        listed = self.note.removeprefix("needs: ") if self.note.startswith("needs: ") else ""
        return [name.strip() for name in listed.split(",") if name.strip()]

    @property
    def installs(self) -> bool:
        return self.language == "sh" and self.code.startswith("pip install ")


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(text.count("\n", 0, found.start(3)) + 1, found[2].strip(), found[3], found[1] or "")
        for found in _BLOCK.finditer(text)
    ]


def run(page: Path, folder: Path) -> dict[str, object]:
    """Run the blocks of a page in a folder, but for its ``pip install``; returns the names that its code made."""
    namespace: dict[str, object] = {"__name__": page.stem}
    for block in blocks(page):
        if block.runs and not block.installs:
            run_block(block, page, folder, namespace)
    return namespace


def run_block(block: Block, page: Path, folder: Path, namespace: dict[str, object]) -> None:
    """Run one block: Python in this process, commands in a shell that stops at the first that fails."""
    if block.language == "python":
        code = "\n" * (block.line - 1) + block.code  # so that a traceback gives the page's line
        before = Path.cwd()
        os.chdir(folder)
        try:
            exec(compile(code, str(page), "exec"), namespace)
        finally:
            os.chdir(before)
        return
    if block.language == "console":
        return check_session(block, page, folder)
    if status := shell(f"set -euo pipefail\n{block.code}", folder).returncode:
        raise RuntimeError(f"{page}, line {block.line}: exit status {status}")


def shell(code: str, folder: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run commands with this Python's programs first on the path."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    return subprocess.run(["bash", "-c", code], cwd=folder, env=os.environ | {"PATH": path}, text=True, **options)


def check_session(block: Block, page: Path, folder: Path) -> None:
    """Run the commands of a block in one shell; each must print what stands below it."""
    steps = [step.partition("\n") for step in re.split(r"^\$ ", block.code, flags=re.MULTILINE)[1:]]
    code = "".join(f"{command}\nstatus=$?; printf '{_MARK}'; (exit $status)\n" for command, _, _ in steps)
    printed = shell(code, folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout.split(_MARK)
    for (command, _, wanted), found in zip(steps, printed[:-1], strict=True):
        pattern = ".*".join(map(re.escape, wanted.split("…")))
        if not re.fullmatch(pattern, found, re.DOTALL):
            raise RuntimeError(f"{page}, line {block.line}: $ {command}\nprints\n{found}\nnot\n{wanted}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="+", type=Path)
    for page in parser.parse_args().pages:
        page = page.resolve()
        for block in blocks(page):
            if block.installs:  # from the folder of the clone, as the page says
                run_block(block, page, ROOT, {})
        with tempfile.TemporaryDirectory() as folder:
            run(page, Path(folder))


if __name__ == "__main__":
    main()
