"""A headless Chromium, driven over a pipe by the DevTools protocol: no library, no port.

Messages are JSON, ended by a NUL byte; the browser reads descriptor 3 and writes descriptor 4.
https://chromedevtools.github.io/devtools-protocol/
"""

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
EXECUTABLE = next((path for path in map(shutil.which, _NAMES) if path), None)
"""Path of the browser, None if there is none."""
_SECONDS = 20
"""No answer takes longer, but on a machine that is stuck."""


class Browser:
    """One page of a browser of its own; use it in a ``with`` statement.

    Attributes
    ----------
    requests : list of str
        Addresses that the page asked for since ``open``, its own included.
    errors : list of str
        Exceptions, and what the console says of errors and of refused content, since ``open``.
    """

    def __init__(self, folder, width=1000, height=900):
        self.requests, self.errors = [], []
        self._loaded, self._number, self._rest = False, 0, b""
        reads, self._to = os.pipe()
        self._from, writes = os.pipe()
        # Out of the way of 3 and 4, which the shell makes of them.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (reads, writes)]
        options = (
            "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
            "--disable-dev-shm-usage", "--disable-background-networking", "--no-first-run",
            f"--user-data-dir={Path(folder) / 'browser'}",
        )  # fmt: skip
        redirected = f'exec "$@" 3<&{ends[0]} 4>&{ends[1]} {ends[0]}<&- {ends[1]}>&-'
        # bash: other shells know descriptors of one digit only.
        self._process = subprocess.Popen(
            ["bash", "-c", redirected, "bash", str(EXECUTABLE), *options],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            pass_fds=ends, start_new_session=True,
        )  # fmt: skip
        for end in (reads, writes, *ends):
            os.close(end)
        self._session = None
        try:
            target = self._call("Target.createTarget", url="about:blank")["targetId"]
            attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
            self._session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
                self._call(f"{domain}.enable")
            self.resize(width, height)
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """End the browser and all its processes."""
        try:
            self._session = None
            self._call("Browser.close")
            self._process.wait(_SECONDS)
        except (OSError, EOFError, TimeoutError, RuntimeError, subprocess.TimeoutExpired):
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        finally:
            os.close(self._to)
            os.close(self._from)

    def open(self, path):
        """Load a file and wait until it is there."""
        self.requests, self.errors, self._loaded = [], [], False
        answer = self._call("Page.navigate", url=Path(path).absolute().as_uri())
        if "errorText" in answer:
            raise RuntimeError(answer["errorText"])
        while not self._loaded:
            self._read()

    def evaluate(self, expression):
        """Value of a JavaScript expression, waited for if it is a promise."""
        answer = self._call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise RuntimeError(details.get("exception", details).get("description", details))
        return answer["result"].get("value")

    def draw(self, points):
        """Draw a line with the mouse through points (x, y) of the window."""
        for number, (x, y) in enumerate(points):
            if number == 0:
                self._mouse("mousePressed", x, y)
            self._mouse("mouseMoved", x, y)
        self._mouse("mouseReleased", x, y)

    def click(self, selector):
        """Click into the middle of an element."""
        x, y = self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect();"
            "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        self.draw([(x, y)])

    def press(self, *keys):
        """Press keys by their names, such as ``ArrowDown`` or ``" "``."""
        for key in keys:
            for kind in ("keyDown", "keyUp"):
                self._call("Input.dispatchKeyEvent", type=kind, key=key)

    def choose(self, selector, path):
        """Give a file to a file input."""
        document = self._call("DOM.getDocument")["root"]["nodeId"]
        node = self._call("DOM.querySelector", nodeId=document, selector=selector)["nodeId"]
        self._call("DOM.setFileInputFiles", nodeId=node, files=[str(Path(path).absolute())])

    def resize(self, width, height, *, dark=False):
        """Make the window so large, in pixels of CSS; ``dark`` as the reader prefers it."""
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path, width, height, *, dark=False):
        """Write a PNG file of the window at that size."""
        self.resize(width, height, dark=dark)
        data = self._call("Page.captureScreenshot", format="png")["data"]
        Path(path).write_bytes(base64.b64decode(data))

    def _mouse(self, kind, x, y):
        self._call(
            "Input.dispatchMouseEvent",
            type=kind, x=x, y=y, button="left", buttons=int(kind != "mouseReleased"), clickCount=1,
        )  # fmt: skip

    def _call(self, method, **parameters):
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        while True:
            answer = self._read()
            if answer.get("id") == number:
                if "error" in answer:
                    msg = f"{method}: {answer['error']}"
                    raise RuntimeError(msg)
                return answer["result"]

    def _read(self):
        """Read the next message, and remember what it says if it is an event."""
        end = time.monotonic() + _SECONDS
        while b"\0" not in self._rest:
            if not select.select([self._from], [], [], max(0, end - time.monotonic()))[0]:
                msg = f"the browser said nothing for {_SECONDS} seconds"
                raise TimeoutError(msg)
            data = os.read(self._from, 2**16)
            if not data:
                msg = "the browser has ended"
                raise EOFError(msg)
            self._rest += data
        text, self._rest = self._rest.split(b"\0", 1)
        message = json.loads(text)
        self._remember(message.get("method"), message.get("params", {}))
        return message

    def _remember(self, event, parameters):
        if event == "Page.loadEventFired":
            self._loaded = True
        elif event == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(parameters["exceptionDetails"]))
        elif event == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            self.errors.append(parameters["entry"]["text"])
