"""Hypothesis: no deadlines (the first call of a kernel compiles it), and in CI the same examples every time."""

import os
import signal

from cli_runs import cli_folder, typer  # noqa: F401
from distributed_runs import client, eager, limit, tall, warm  # noqa: F401
from hypothesis import HealthCheck, settings

settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("local"), derandomize=True)
settings.register_profile("thorough", settings.get_profile("local"), max_examples=100_000)
settings.load_profile("ci" if os.environ.get("CI") else "local")

# A shell that starts the tests in the background makes them ignore Ctrl-C; Python then installs no handler of its own.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """The corpus last: it takes every core, and in CI the other lane has ended by then."""
    items.sort(key=lambda item: "hostile" in item.path.parts)
