"""A headless Chromium driven over the DevTools protocol's pipe: JSON messages that end in a zero byte, no library needed."""

from __future__ import annotations

import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = next((found for name in NAMES if (found := shutil.which(name))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--mute-audio",
    "--autoplay-policy=no-user-gesture-required",
    "--remote-debugging-pipe",
)
# The browser reads commands from descriptor 3 and writes answers to 4: the pipes' ends are moved there before it starts.
LAUNCH = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
PATIENCE = 60.0  # seconds for one answer
KEYS = {
    "Enter": ("\r", 13), "Escape": (None, 27), "Tab": (None, 9), "ArrowDown": (None, 40), "ArrowUp": (None, 38), "/": ("/", 191),
}  # fmt: skip


class Browser:
    """A browser with one page. ``problems`` collects console messages and uncaught errors, ``requests`` what was asked for."""

    def __init__(self, profile: Path) -> None:
        command, self._commands = os.pipe()
        self._answers, answer = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(command), str(answer), str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(command, answer),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(command)
        os.close(answer)
        self._numbers = itertools.count(1)
        self._unread = b""
        self._session: str | None = None
        self._loaded: list[str] = []
        self.problems: list[str] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Page.setLifecycleEventsEnabled", enabled=True)

    def open(self, address: str, *, width: int = 1280, height: int = 900) -> None:
        """Load a page and wait until its scripts ran; what was collected before is forgotten."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self._load("about:blank")  # else a change of the part after "#" alone would load nothing
        self.problems.clear()
        self.requests.clear()
        self._load(address)

    def _load(self, address: str) -> None:
        self._loaded.clear()
        loader = self.call("Page.navigate", url=address)["loaderId"]
        while loader not in self._loaded:
            self._read()

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; a promise's when it is kept."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True)
        if "exceptionDetails" in answer:
            raise AssertionError(f"{script}: {answer['exceptionDetails'].get('exception', {}).get('description')}")
        return answer["result"].get("value")

    def choose(self, selector: str, value: str) -> None:
        """Set a select, as a reader would."""
        self.run(
            f"(() => {{ const node = document.querySelector({json.dumps(selector)}); node.value = {json.dumps(value)};"
            "node.dispatchEvent(new Event('change', { bubbles: true })); })()"
        )

    def press(self, key: str) -> None:
        """A real key press wherever the focus is."""
        text, code = KEYS.get(key, (key, ord(key.upper()[0])))
        event = {"key": key, "windowsVirtualKeyCode": code, **({"text": text} if text else {})}
        self.call("Input.dispatchKeyEvent", type="keyDown", **event)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command's answer."""
        number = next(self._numbers)
        session = {} if self._session is None else {"sessionId": self._session}
        message = json.dumps({"id": number, "method": method, "params": parameters, **session}).encode() + b"\0"
        while message:
            message = message[os.write(self._commands, message) :]
        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result

    def _read(self) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE
        while b"\0" not in self._unread:
            ready, *_ = select.select([self._answers], [], [], max(0.0, end - time.monotonic()))
            block = os.read(self._answers, 1 << 20) if ready else b""
            if not block:
                raise AssertionError("the browser does not answer")
            self._unread += block
        line, _, self._unread = self._unread.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        self._note(message)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        method, facts = message.get("method"), message.get("params", {})
        if method == "Page.lifecycleEvent" and facts["name"] == "load":
            self._loaded.append(facts["loaderId"])
        elif method == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(facts["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled":
            self.problems.append(json.dumps(facts["args"]))
        elif method == "Log.entryAdded":
            self.problems.append(facts["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(facts["request"]["url"])

    def close(self) -> None:
        """End the browser."""
        os.close(self._commands)
        os.close(self._answers)
        self._process.terminate()
        self._process.wait(timeout=30)
