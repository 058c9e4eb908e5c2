"""A real browser without a window: the installed Chromium, else one that root installs by ``apt-get``."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from tests.support import rabbitmq

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PACKAGES = ("chromium", "chromium-driver")
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Nothing but this machine can be reached, whatever a page or the browser itself wants.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--window-size=1300,900",
)
WHAT_TO_INSTALL = "install chromium and its driver (apt-get install chromium chromium-driver)"
LOAD_SECONDS = 30


class BrowserMissing(Exception):
    """There is no browser and none can be had; the message says what to install."""


def programs() -> tuple[str, str]:
    """The browser and its driver.

    Raises:
      BrowserMissing: they are not there, and cannot be installed.
    """
    found = _installed()
    if found is None and rabbitmq.can_be_installed():
        try:
            for package in PACKAGES:
                rabbitmq.install(package, WHAT_TO_INSTALL)
        except RuntimeError as error:
            raise BrowserMissing(str(error)) from None
        found = _installed()
    if found is None:
        raise BrowserMissing(WHAT_TO_INSTALL)
    return found


def _installed() -> tuple[str, str] | None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


@contextmanager
def browser(profile: Path) -> Iterator[Chrome]:
    """A browser with an empty profile in a folder that is not there yet.

    Raises:
      BrowserMissing: there is none.
    """
    program, driver = programs()
    options = ChromeOptions()
    options.binary_location = program
    for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    running = Chrome(options, Service(driver))
    try:
        running.set_page_load_timeout(LOAD_SECONDS)
        yield running
    finally:
        running.quit()
