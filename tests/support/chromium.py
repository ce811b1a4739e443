"""A headless Chromium that opens pages for the tests.

We speak its DevTools protocol through a pair of pipes, so no driver and no library is needed.
"""

import json
import os
import select
import shutil
import subprocess
import tempfile
from typing import Any

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")
PATIENCE = 60  # seconds without a word from Chromium, after which a test fails


class Browser:
    """One tab. `events` holds all events that Chromium reported since the page was opened."""

    def __init__(self) -> None:
        assert PROGRAM
        self.profile = tempfile.mkdtemp()
        theirs_in, self.to = os.pipe()
        self.source, theirs_out = os.pipe()

        def wire() -> None:  # Chromium reads from file 3 and writes to 4: free both, then use them
            high_in, high_out = (os.dup(fd) if fd < 5 else fd for fd in (theirs_in, theirs_out))
            os.dup2(high_in, 3)
            os.dup2(high_out, 4)

        self.process = subprocess.Popen(
            [
                *(PROGRAM, "--headless=new", "--no-sandbox", "--remote-debugging-pipe"),
                *("--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
                *(f"--user-data-dir={self.profile}", "about:blank"),
            ],
            preexec_fn=wire,
            close_fds=False,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self.file = os.fdopen(self.source, "rb", 0)
        self.buffer, self.number, self.session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target for target in targets if target["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call("Page.setLifecycleEventsEnabled", enabled=True)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.to)
        self.file.close()
        shutil.rmtree(self.profile, ignore_errors=True)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its answer. Events that arrive meanwhile go to `events`."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.read()
            if answer.get("id") == self.number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def read(self) -> dict[str, Any]:
        """Return the next message, an answer or an event."""
        while b"\0" not in self.buffer:
            assert select.select([self.source], [], [], PATIENCE)[0], "Chromium says nothing"
            more = self.file.read(1 << 16)
            assert more, "Chromium has gone"
            self.buffer += more
        text, self.buffer = self.buffer.split(b"\0", 1)
        message = json.loads(text)
        if "method" in message:
            self.events.append(message)
        return message

    def open(self, address: str, width: int = 1280, height: int = 900, **media: str) -> None:
        """Open a page in a window of this size. media: features, as prefers_color_scheme="dark"."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        features = [{"name": k.replace("_", "-"), "value": v} for k, v in media.items()]
        self.call("Emulation.setEmulatedMedia", features=features)
        self._go("about:blank")  # so that the same page at another #place is loaded anew
        self.events.clear()
        self._go(address)

    def _go(self, address: str) -> None:
        loader = self.call("Page.navigate", url=address)["loaderId"]
        wanted = {"loaderId": loader, "name": "load"}
        while not any(wanted.items() <= event["params"].items() for event in self.events):
            self.read()

    def js(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page; a promise is waited for."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def click(self, selector: str) -> None:
        """Click at the middle of an element. If something covers it, that gets the click."""
        how = "{block: 'center', behavior: 'instant'}"
        self.js(f"document.querySelector({selector!r}).scrollIntoView({how})")
        x, y = self.js(
            f"(() => {{ const at = document.querySelector({selector!r}).getBoundingClientRect();"
            "return [at.left + at.width / 2, at.top + at.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            place = {"x": x, "y": y, "button": "left", "clickCount": 1}
            self.call("Input.dispatchMouseEvent", type=kind, **place)

    def press(self, key: str) -> None:
        """Press and release a key: "Tab", "Enter", " ", "ArrowRight", ..."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "End": 35, "Home": 36}
        codes |= {"ArrowLeft": 37, "ArrowRight": 39}
        event = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
        text = {"Enter": {"text": "\r"}, " ": {"text": " "}}.get(key, {})
        self.call("Input.dispatchKeyEvent", type="keyDown", **event, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def screenshot(self) -> str:
        """Return what the window shows as a PNG in base64."""
        return self.call("Page.captureScreenshot")["data"]
