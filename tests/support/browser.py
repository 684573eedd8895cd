"""A headless browser for the tests of pages: Chromium, told what to do by its DevTools protocol over two pipes."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PROGRAM = next((found for name in NAMES if (found := shutil.which(name))), None)
SHELL = shutil.which("bash")
_REPORTED = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded", "Network.requestWillBeSent")


class Page:
    """A page of a file in a browser without a window.

    Attributes:
      messages: what the page wrote to its console, its errors, and the addresses that it asked for.
    """

    def __init__(self, path, *, width=1400, height=900, dark=False):
        self._profile, self.messages, self._ids = tempfile.mkdtemp(), [], itertools.count(1)
        theirs, self._write = os.pipe()
        self._read, ours = os.pipe()
        options = [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe",
            "--disable-background-networking", "--no-first-run", f"--user-data-dir={self._profile}", "about:blank",
        ]  # fmt: skip
        line = f'exec "$0" "$@" 3<&{theirs} 4>&{ours}'  # where Chromium looks for its pipes
        command = [SHELL, "-c", line, PROGRAM, *options]
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, pass_fds=(theirs, ours), **quiet)
        os.close(theirs)
        os.close(ours)
        self._received, self._session = self._lines(), None
        [target] = [one for one in self.call("Target.getTargets")["targetInfos"] if one["type"] == "page"]
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.resize(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=Path(path).resolve().as_uri())
        while self.evaluate("document.readyState") != "complete":
            pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        os.close(self._read)
        os.close(self._write)
        shutil.rmtree(self._profile, ignore_errors=True)

    def call(self, method, **params):
        """The result of a command of the protocol."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        for answer in self._received:
            if answer.get("id") == number:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            if answer.get("method") in _REPORTED:
                self.messages.append(answer)
        raise AssertionError("the browser ended")

    def evaluate(self, expression):
        """The value of an expression of JavaScript."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def resize(self, width, height=900):
        """Gives the page another width and height, in pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def press(self, key):
        """Presses a key, by its name in JavaScript."""
        codes = {"ArrowLeft": 37, "ArrowRight": 39, "Home": 36, "End": 35, "Tab": 9}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key])

    def drag(self, start, end):
        """Presses the mouse at a point of the window, moves it to another one in eight steps, and lets it go."""
        at = lambda part: {"xy"[i]: start[i] + part * (end[i] - start[i]) for i in range(2)}
        for kind, part in [("mousePressed", 0), *(("mouseMoved", i / 8) for i in range(1, 9)), ("mouseReleased", 1)]:
            self.call("Input.dispatchMouseEvent", type=kind, button="left", buttons=1, clickCount=1, **at(part))

    def screenshot(self):
        """The whole page as a PNG file, in bytes."""
        return base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"])

    def _lines(self):
        """Yields the messages of the browser until it ends."""
        rest = b""
        while chunk := os.read(self._read, 1 << 20):
            *whole, rest = (rest + chunk).split(b"\0")
            yield from map(json.loads, whole)
