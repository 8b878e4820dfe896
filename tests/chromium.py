"""A headless Chromium, driven over its own pipe: no driver and no port."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BINARY = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-quic",
    "--disable-component-update", "--no-first-run", "--remote-debugging-pipe",
)  # fmt: skip


class Browser:
    """One tab; `events` holds everything that it reported."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read = write, read
        self._held, self._number, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Ask for something and wait for the answer."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self.events.append(answer)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._held:
            more = os.read(self._read, 1 << 16)
            assert more, "Chromium has gone"
            self._held += more
        message, self._held = self._held.split(b"\0", 1)
        return dict(json.loads(message))

    def open(self, path: Path, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Load a file and wait until it stands."""
        self.events.clear()
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.call("Page.navigate", url=path.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._receive())

    def run(self, script: str) -> Any:
        """Return the value of an expression; a promise is waited for."""
        done = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def screenshot(self, out: Path, *, whole: bool = False) -> None:
        """Save what is seen, or the whole page, as PNG."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        out.write_bytes(base64.b64decode(data))

    def requests(self) -> list[str]:
        """Return every address that was asked for."""
        found = (e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent")
        return list(found)

    def complaints(self) -> list[dict[str, Any]]:
        """Return errors and warnings of the console, and exceptions that nothing caught."""
        kinds = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
        return [event for event in self.events if event.get("method") in kinds]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start a Chromium of its own, with a profile that is thrown away."""
    assert BINARY is not None
    (from_us, to_it), (from_it, to_us) = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:

        def wire() -> None:
            """Chromium reads its commands from descriptor 3 and answers on 4; neither may hide the other's end."""
            high = fcntl.fcntl(from_us, fcntl.F_DUPFD, 10), fcntl.fcntl(to_us, fcntl.F_DUPFD, 10)
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        command = [BINARY, *FLAGS, f"--user-data-dir={profile}"]
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        with subprocess.Popen(command, close_fds=False, preexec_fn=wire, **streams) as process:
            os.close(from_us), os.close(to_us)
            try:
                yield Browser(to_it, from_it)
            finally:
                os.close(to_it), os.close(from_it)
                process.terminate()
