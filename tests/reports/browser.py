"""A real headless Chromium, driven over WebDriver's HTTP by the standard library."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
AXE = os.environ.get("QSWEEP_TEST_AXE", "")
"""The file axe.min.js of axe-core, which looks for what keeps people with disabilities from using a page."""
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)


class Browser:
    """One session of the browser."""

    def __init__(self, url: str, profile: Path) -> None:
        self._url = url
        options = {"binary": CHROMIUM, "args": [*QUIET, f"--user-data-dir={profile}"]}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        wanted["timeouts"] = {"script": 300_000}
        self._session = self._send("/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def open(self, page: Path | str) -> None:
        """Load a page, a file or an address, and wait until its script has run."""
        self._command("url", {"url": page if isinstance(page, str) else page.as_uri()})
        deadline = time.monotonic() + 300
        while self.run("return document.documentElement.dataset.ready") != "true":
            assert time.monotonic() < deadline, self.messages()
            time.sleep(0.1)
        time.sleep(0.3)

    def run(self, script: str) -> Any:
        """The value that a piece of JavaScript returns."""
        return self._command("execute/sync", {"script": script, "args": []})

    def until(self, condition: str, *, seconds: float = 60) -> None:
        """Wait until a piece of JavaScript is true."""
        deadline = time.monotonic() + seconds
        while not self.run(f"return Boolean({condition})"):
            assert time.monotonic() < deadline, (condition, self.messages())
            time.sleep(0.05)

    def violations(self) -> list[str]:
        """What axe-core finds wrong with the page as it stands: the rule, and where."""
        self.run(Path(AXE).read_text())
        script = (
            "const done = arguments[0]; axe.run(document, {resultTypes: ['violations']}).then((found) =>"
            "done(found.violations.flatMap((one) => one.nodes.map((node) => `${one.id}: ${node.html}`))))"
        )
        found: list[str] = self._command("execute/async", {"script": script, "args": []})
        return found

    def devtools(self, command: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol."""
        return self._command("goog/cdp/execute", {"cmd": command, "params": parameters})

    def messages(self) -> list[str]:
        """What the console has said since it was asked last."""
        return [entry["message"] for entry in self._command("se/log", {"type": "browser"})]

    def look(self, *, width: int, height: int = 900, dark: bool = False) -> None:
        """A window of that size (in CSS pixels), light or dark."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", media="", features=[scheme])
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.devtools("Emulation.setDeviceMetricsOverride", **size)
        time.sleep(0.5)

    def picture(self, path: Path, *, top: int = 0, height: int | None = None) -> None:
        """A picture of the page as PNG, or of `height` pixels of it from `top`."""
        width = self.run("return innerWidth")
        whole = self.run("return document.documentElement.scrollHeight")
        clip = {"x": 0, "y": top, "width": width, "height": min(height or whole, whole - top), "scale": 1}
        found = self.devtools("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(found["data"]))

    def printed(self, path: Path) -> None:
        """The page as PDF, on A4."""
        self.devtools("Emulation.setEmulatedMedia", media="", features=[])
        found = self.devtools("Page.printToPDF", paperWidth=8.27, paperHeight=11.69, preferCSSPageSize=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def close(self) -> None:
        with suppress(urllib.error.URLError):
            self._send(f"/session/{self._session}", None, method="DELETE")

    def _command(self, name: str, content: dict[str, Any]) -> Any:
        return self._send(f"/session/{self._session}/{name}", content)

    def _send(self, path: str, content: dict[str, Any] | None, method: str = "POST") -> Any:
        body = None if content is None else json.dumps(content).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._url + path, data=body, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from None


@contextmanager
def started(folder: Path) -> Iterator[Browser]:
    """A browser with an empty profile in `folder`; gone at the end."""
    assert CHROMEDRIVER is not None
    driver = subprocess.Popen(
        [CHROMEDRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1
    )
    try:
        assert driver.stdout is not None
        line = next(line for line in driver.stdout if "started successfully on port" in line)
        port = line.rstrip().rstrip(".").rpartition(" ")[2]
        browser = Browser(f"http://127.0.0.1:{port}", folder / "profile")
        try:
            yield browser
        finally:
            browser.close()
    finally:
        driver.kill()  # its browser is closed; asked to end by itself, it has been seen to wait
        driver.wait()
        if driver.stdout is not None:
            driver.stdout.close()
