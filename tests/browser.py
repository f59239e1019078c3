"""A look at a page in headless Chromium, through its DevTools protocol over a pipe: no driver, no port."""

import base64
import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from typing import NamedTuple

SECONDS = 60  # for the whole look
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
    "--remote-debugging-pipe",
]
MEASURE = """JSON.stringify({
    width: document.documentElement.scrollWidth, height: document.documentElement.scrollHeight,
    text: document.body.innerText,
    images: Array.from(document.images, i => ({
        alt: i.alt, decoded: i.complete ? i.naturalWidth * i.naturalHeight : 0,
        box: [i.getBoundingClientRect()].map(b => [b.x, b.y + scrollY, b.width, b.height])[0]}))})"""


class Look(NamedTuple):
    """What a browser found."""

    width: int
    height: int
    text: str
    images: list
    """alt text, number of decoded pixels, and box (x, y, width, height) of every picture."""
    problems: list
    """What the browser had to say: errors and warnings of the console, exceptions, violations of the page's policy."""
    requests: list
    """Addresses that the page asked for, but for itself and data:."""
    png: bytes


def look(path, width=1280):
    """Open a file in Chromium, ``width`` pixels wide, and say what is there."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, _chromium(profile) as browser:
        target = browser.ask("Target.createTarget", url="about:blank")["targetId"]
        session = browser.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            browser.ask(f"{domain}.enable", session)
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.ask("Emulation.setDeviceMetricsOverride", session, **size)
        browser.ask("Page.navigate", session, url=path.as_uri())
        browser.wait("Page.loadEventFired")
        found = json.loads(browser.ask("Runtime.evaluate", session, expression=MEASURE)["result"]["value"])
        browser.ask("Emulation.setDeviceMetricsOverride", session, **size | {"height": found["height"]})
        png = base64.b64decode(browser.ask("Page.captureScreenshot", session, format="png")["data"])
        asked = [event["params"]["request"]["url"] for event in browser.events("Network.requestWillBeSent")]
        asked = [url for url in asked if url != path.as_uri() and not url.startswith("data:")]
        problems = [
            event["params"]
            for name in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
            for event in browser.events(name)
        ]
        return Look(**found, problems=problems, requests=asked, png=png)


class _Pipe:
    """Messages to and from the browser, each ended by a zero byte."""

    def __init__(self, to, fro):
        self._to, self._fro, self._number, self._seen = to, fro, 0, []
        self._until = time.monotonic() + SECONDS

    def ask(self, method, session=None, **params):
        self._number += 1
        message = {"id": self._number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self._to, json.dumps(message).encode() + b"\0")
        answer = self._next(lambda found: found.get("id") == self._number)
        assert "error" not in answer, answer
        return answer["result"]

    def wait(self, event):
        if not self.events(event):
            self._next(lambda found: found.get("method") == event)

    def events(self, name):
        return [event for event in self._seen if event["method"] == name]

    def _next(self, wanted):
        buffer = bytearray()
        while time.monotonic() < self._until:
            byte = self._fro.read(1)
            assert byte, "the browser went away"
            if byte != b"\0":
                buffer += byte
                continue
            message = json.loads(buffer)
            buffer.clear()
            if "method" in message:
                self._seen.append(message)
            if wanted(message):
                return message
        raise TimeoutError(f"the browser took more than {SECONDS} seconds")


@contextlib.contextmanager
def _chromium(profile):
    read_in, write_in = os.pipe()
    read_out, write_out = os.pipe()
    command = [shutil.which("chromium"), *FLAGS, f"--user-data-dir={profile}"]
    # The browser reads from file descriptor 3 and writes to 4.
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (read_in, write_out)]  # clear of 3 and 4 themselves
    shell = ["bash", "-c", f'exec "$@" 3<&{ends[0]} 4>&{ends[1]}', "bash", *command]
    process = subprocess.Popen(shell, pass_fds=ends, stderr=subprocess.DEVNULL, start_new_session=True)
    for end in (read_in, write_out, *ends):
        os.close(end)
    try:
        with open(read_out, "rb", buffering=1 << 16) as fro:
            yield _Pipe(write_in, fro)
    finally:
        os.close(write_in)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
