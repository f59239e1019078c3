"""Run every case, print the table."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections import Counter

from . import processes
from .case import BAD, OK, Case, Outcome


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--json", action="store_true", help="every outcome, as a line of JSON each")
    parser.add_argument("--peers", action="store_true", help="the other libraries instead of lfm_np")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    options = parser.parse_args(arguments)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # by a shell that started this in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if options.peers:
        from . import peers

        cases = peers.cases()
    else:
        from . import corpus

        cases = corpus.cases()
        corpus.warm_up()
    cases = [case for case in cases if options.only in case.name]
    outcomes = processes.run(cases, lenient=options.peers)
    if options.json:
        for name, outcome in outcomes.items():
            print(json.dumps([name, *outcome]))
    else:
        print(table(cases, outcomes))
    return int(any(outcome.kind != OK for outcome in outcomes.values()))


def table(cases: list[Case], outcomes: dict[str, Outcome]) -> str:
    """Counts by the part of a name before its colon, and every case that went wrong."""
    counts: dict[str, Counter[str]] = {}
    for name, outcome in outcomes.items():
        counts.setdefault(name.split(":")[0], Counter())[outcome.kind] += 1
    columns = ("cases", OK, *BAD)
    lines = ["| | " + " | ".join(columns) + " |", "| --- |" + " ---: |" * len(columns)]
    total: Counter[str] = Counter()
    for group, count in [*counts.items(), ("all", total)]:
        if group != "all":
            total.update(count)
        numbers = [count.total(), *(count[kind] for kind in columns[1:])]
        lines.append(f"| {group} | " + " | ".join(map(str, numbers)) + " |")
    wrong = [f"{o.kind:14} {name}: {' '.join(o.detail.split())[:200]}" for name, o in outcomes.items() if o.kind != OK]
    return "\n".join([*lines, "", *wrong])


if __name__ == "__main__":
    sys.exit(main())
