"""A real browser for the tests of pages: Chromium without a window, spoken to over its DevTools pipe.

https://chromedevtools.github.io/devtools-protocol: JSON messages that end with a zero byte, on file descriptors 3
and 4. Nothing needs to be installed but the browser itself.
"""

from __future__ import annotations

import base64
import fcntl
import io
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from PIL import Image

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))),
                None)


class Browser:
    """One page in a browser of its own. `requests`: the addresses it asked for. `complaints`: what its console got."""

    def __init__(self, profile: Path, size: tuple[int, int] = (1000, 900)):
        assert CHROMIUM is not None
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for pair in (os.pipe(), os.pipe()) for end in pair]
        to_read, self._writing, self._reading, to_write = ends

        def give_ends() -> None:
            os.dup2(to_read, 3)
            os.dup2(to_write, 4)

        self._process = subprocess.Popen(
            [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run",
             "--disable-background-networking", f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}"],
            preexec_fn=give_ends, pass_fds=(3, 4), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_read)
        os.close(to_write)
        self._received, self._number, self._session = b"", 0, ""
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._loaded = False
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._writing)
        os.close(self._reading)

    def open(self, page: Path | str) -> None:
        """Load a file or an address, and wait until all of it is there."""
        self._loaded = False
        self.call("Page.navigate", url=page if isinstance(page, str) else page.resolve().as_uri())
        deadline = time.monotonic() + 30
        while not self._loaded:
            self._take(self._receive(deadline))

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, script: str, seconds: float = 30) -> Any:
        """The value of an expression in the page, once it is true."""
        deadline = time.monotonic() + seconds
        while not (value := self.evaluate(script)):
            assert time.monotonic() < deadline, f"never true: {script}; {self.complaints}"
            time.sleep(0.02)
        return value

    def choose_file(self, selector: str, file: Path) -> None:
        """Choose a file in a form's field for files."""
        field = self.call("Runtime.evaluate", expression=f"document.querySelector('{selector}')")["result"]["objectId"]
        self.call("DOM.setFileInputFiles", files=[str(file)], objectId=field)

    def download_to(self, folder: Path) -> None:
        """Save what the page offers for download in a folder."""
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder), session=False)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """With the mouse, in pixels of the window."""
        for kind, (x, y) in (("mouseMoved", start), ("mousePressed", start), ("mouseMoved", end),
                             ("mouseReleased", end)):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def screenshot(self) -> Image.Image:
        """What is seen of the page."""
        content = self.call("Page.captureScreenshot", format="png")["data"]
        return Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB")

    def call(self, method: str, session: bool = True, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer. `session`: it is about the page, not the browser."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session and session:
            message["sessionId"] = self._session
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + 30
        while True:
            answer = self._receive(deadline)
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])
            self._take(answer)

    def _receive(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._reading], [], [], max(deadline - time.monotonic(), 0))
            assert ready, "the browser says nothing"
            self._received += os.read(self._reading, 1 << 20)
        message, self._received = self._received.split(b"\0", 1)
        return dict(json.loads(message))

    def _take(self, event: dict[str, Any]) -> None:
        kind, about = event.get("method"), event.get("params", {})
        if kind == "Page.loadEventFired":
            self._loaded = True
        elif kind == "Network.requestWillBeSent" and not about["request"]["url"].startswith(("data:", "blob:")):
            self.requests.append(about["request"]["url"])
        elif kind in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.complaints.append(json.dumps(about))
