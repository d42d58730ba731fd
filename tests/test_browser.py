"""JupyterLab in a real browser, as a student uses it: run all, move each control, upload, download, save.

Needs playwright and a Chromium (`make test-browser` says how) and is skipped without. Three notebooks are driven; all
of them where COURSE_BROWSER is "all".
"""

import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request

import numpy as np
import pytest
from PIL import Image

from lib.course.build import differences
from lib.course.lab import lab_command, working_copies
from lib.paths import NOTEBOOKS, REPOSITORY

sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: make test-browser installs it")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install the system's package chromium"),
    pytest.mark.slow,
]

PLACE = REPOSITORY / "runs" / "browser"  # inside the repository, which is what JupyterLab shows
ALL = sorted(path.stem for path in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
DRIVEN = ALL if os.environ.get("COURSE_BROWSER") == "all" else [name for name in ALL if name[:2] in ("00", "02", "03")]
MINUTE = 60_000  # milliseconds, which is what playwright counts
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
# What a cell shows: the sources of its pictures, and its text but for the controls' own; JavaScript in the page.
SHOWN = """cell => [...cell.querySelectorAll('.jp-OutputArea-output img')].map(one => one.src).join()
  + [...cell.querySelectorAll('.jp-OutputArea-output:not(:has(.jupyter-widgets))')].map(one => one.innerText).join()
  + [...cell.querySelectorAll('.js-plotly-plot')].map(one => JSON.stringify(one.layout && one.layout.title)).join()"""
ALL_RAN = r"""() => [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt:not(.jp-Placeholder-prompt)')]
  .every(prompt => /\[\d+\]/.test(prompt.innerText))"""
# A control -> keys that move it, one way and the other. JupyterLab takes arrow keys from a list that is not open.
CONTROLS = {
    ".noUi-handle": ("ArrowRight", "ArrowLeft"),
    ".widget-dropdown select": ("Space ArrowDown Enter", "Space ArrowUp Enter"),
    ".widget-checkbox input": ("Space",),
    ".widget-radio-box input:checked": ("ArrowDown", "ArrowUp"),
}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def server():
    """The address of a JupyterLab on fresh working copies; every cell is drawn, also those out of sight."""
    shutil.rmtree(PLACE, ignore_errors=True)
    work = PLACE / "work"
    working_copies(work=work)
    settings = PLACE / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    (settings / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')
    command, environment = lab_command(work)
    port = free_port()
    command += ["--no-browser", f"--ServerApp.port={port}", "--IdentityProvider.token=t", "--ServerApp.port_retries=0"]
    environment |= {
        "JUPYTERLAB_SETTINGS_DIR": str(PLACE / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(PLACE / "workspaces"),
        "JUPYTER_CONFIG_DIR": str(PLACE / "config"),
        "COURSE_RUNS": str(PLACE / "runs"),
    }
    environment.pop("MPLBACKEND", None)  # the other tests draw without a screen; a notebook has a backend of its own
    with (PLACE / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, cwd=REPOSITORY, stdout=log, stderr=log)
    try:
        _wait_for(f"http://127.0.0.1:{port}/api?token=t", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def _wait_for(address: str, process: subprocess.Popen) -> None:
    for _ in range(240):
        assert process.poll() is None, (PLACE / "server.log").read_text()[-2000:]
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.25)
    raise AssertionError("JupyterLab did not start: " + (PLACE / "server.log").read_text()[-2000:])


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        one = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield one
        one.close()


class Lab:
    """One notebook, open in JupyterLab."""

    def __init__(self, page, server: str, name: str):
        self.page, self.server, self.path = page, server, PLACE / "work" / f"{name}.ipynb"
        self.complaints: list[str] = []
        page.on("console", lambda message: self._hear(message.type, message.text))
        page.on("pageerror", lambda error: self._hear("error", str(error)))
        self.open()

    def _hear(self, kind: str, text: str) -> None:
        if kind == "error":
            self.complaints.append(text)

    def open(self) -> None:
        where = self.path.relative_to(REPOSITORY).as_posix()
        self.page.goto(f"{self.server}/lab/tree/{where}?token=t&reset")
        self.page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=2 * MINUTE)
        self.page.wait_for_selector(".jp-KernelName:has-text('Python 3')", timeout=2 * MINUTE)
        self.wait_until_idle()

    def wait_until_idle(self, minutes: float = 2) -> None:
        self.page.wait_for_selector(
            ".jp-Notebook-ExecutionIndicator[data-status='idle']", state="attached", timeout=minutes * MINUTE
        )

    def run_all(self, minutes: float = 10) -> None:
        """By the menu, on cells without the stored outputs; then wait until no cell is waiting or running."""
        self.choose("Edit", "Clear Outputs of All Cells")
        self.choose("Run", "Run All Cells")
        self.page.wait_for_function(ALL_RAN, timeout=minutes * MINUTE, polling=500)
        self.wait_until_idle()

    def choose(self, menu: str, item: str) -> None:
        assert self.dialogs() == []
        self.page.click(f".lm-MenuBar-itemLabel:text-is('{menu}')")
        self.page.click(f".lm-Menu-itemLabel:text-is('{item}')")

    def errors(self) -> list[str]:
        """Tracebacks, in cells and below controls."""
        found = self.page.query_selector_all(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']")
        return [one.inner_text()[:500] for one in found]

    def controls(self) -> list[tuple]:
        """Every control of the notebook that is not switched off: its cell, its kind, itself."""
        found = []
        for cell in self.page.query_selector_all(".jp-CodeCell"):
            for kind in CONTROLS:
                handles = [one for one in cell.query_selector_all(kind) if one.is_visible() and one.is_enabled()]
                found += [(cell, kind, one) for one in handles if one.get_attribute("disabled") is None]
        return found

    def changes(self, cell, act, seconds: float = 30) -> bool:
        """Whether what the cell shows is another thing after `act`."""
        self.settle(cell)  # what was moved before may still be drawing
        before = cell.evaluate(SHOWN)
        act()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if cell.evaluate(SHOWN) != before:
                self.settle(cell)
                return True
            self.page.wait_for_timeout(100)
        return False

    def shows(self, cell, text: str, seconds: float = 120) -> None:
        """Wait until the cell says so."""
        end = time.monotonic() + seconds
        while text not in cell.inner_text():
            assert time.monotonic() < end, f"{text!r} did not appear, but {cell.inner_text()[-500:]!r}"
            self.page.wait_for_timeout(200)

    def settle(self, cell) -> None:
        """Wait until the cell has shown one thing for a second."""
        shown, since = cell.evaluate(SHOWN), time.monotonic()
        while time.monotonic() - since < 1.0:
            self.page.wait_for_timeout(200)
            now = cell.evaluate(SHOWN)
            if now != shown:
                shown, since = now, time.monotonic()

    def dialogs(self) -> list[str]:
        """What JupyterLab asks; nothing should make it ask."""
        return [one.inner_text() for one in self.page.query_selector_all("dialog.jp-Dialog")]

    def save(self) -> None:
        before = self.path.stat().st_mtime_ns
        self.choose("File", "Save Notebook")
        for _ in range(100):
            if self.path.stat().st_mtime_ns != before:
                return
            self.page.wait_for_timeout(100)
        raise AssertionError("Save Notebook wrote nothing")


@pytest.fixture(scope="module", params=DRIVEN)
def lab(request, server, browser):
    """The notebook, run from top to bottom by Run All Cells."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    opened = Lab(page, server, request.param)
    opened.run_all()
    yield opened
    page.close()
    sessions = json.load(urllib.request.urlopen(f"{server}/api/sessions?token=t"))
    for session in sessions:  # its kernel holds memory that the next one wants
        kernel = f"{server}/api/kernels/{session['kernel']['id']}?token=t"
        urllib.request.urlopen(urllib.request.Request(kernel, method="DELETE")).close()


def test_all_cells_run_without_an_error(lab):
    assert lab.errors() == []
    assert lab.complaints == []


def test_each_control_changes_its_picture_by_keyboard(lab):
    unmoved = []
    for cell, kind, control in lab.controls():

        def press(keys, control=control):
            control.focus()
            for key in keys.split():
                lab.page.keyboard.press(key)
                lab.page.wait_for_timeout(200)

        # at the end of its range a slider moves only the other way
        if not any(lab.changes(cell, lambda keys=keys: press(keys), 20) for keys in CONTROLS[kind]):
            unmoved.append(f"{kind} in {cell.inner_text()[:80]!r}")
    assert unmoved == []
    assert lab.errors() == [] and lab.complaints == []


# --- the first notebook: a photo of one's own, and the mesh to take home ----------------------------------------------

FIRST = pytest.mark.parametrize("lab", ["00_start_here"], indirect=True)


def write_photo(path, size: int, noise: bool) -> None:
    """A chair-like cut-out: legs, a seat and a back on a transparent background; noise makes the file large."""
    pixels = np.zeros((size, size, 4), dtype=np.uint8)
    parts = [(0.1, 0.5, 0.3, 0.7), (0.5, 0.6, 0.25, 0.75), (0.6, 0.9, 0.27, 0.33), (0.6, 0.9, 0.67, 0.73)]
    for part in parts:
        top, bottom, left, right = (round(share * size) for share in part)
        pixels[top:bottom, left:right] = (150, 100, 60, 255)
    if noise:
        pixels[..., :3] = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@FIRST
@pytest.mark.parametrize(("size", "noise", "least"), [(300, False, 0), (2100, True, 12_000_000)])
def test_a_photo_is_uploaded_and_reconstructed(lab, tmp_path, size, noise, least):
    photo = tmp_path / f"photo-{size}.png"
    write_photo(photo, size, noise)
    assert photo.stat().st_size > least
    cell = lab.page.query_selector(".jp-CodeCell:has(button:text-is('reconstruct'))")
    with lab.page.expect_file_chooser() as chooser:
        cell.query_selector("button:has-text('photo')").click()
    chooser.value.set_files(photo)
    lab.shows(cell, f"{photo.name} is here")
    cell.query_selector("button:text-is('reconstruct')").click()
    lab.shows(cell, "The mesh is ")
    assert "error" not in cell.inner_text().lower()
    uploaded = next(PLACE.rglob("photo.png"))
    assert uploaded.read_bytes() == photo.read_bytes()  # this one, not the one before
    assert lab.errors() == []


@FIRST
def test_the_mesh_can_be_downloaded(lab):
    links = [one.get_attribute("href") for one in lab.page.query_selector_all(".jp-OutputArea-output a[href*='.glb']")]
    assert links
    for link in links:
        address = link if link.startswith("http") else lab.server + link
        answer = lab.page.request.get(re.sub(r"\?.*", "", address) + "?token=t")
        assert answer.status == 200 and answer.body()[:4] == b"glTF"


# --- at the end, because it opens the page again ----------------------------------------------------------------------


def test_saving_and_opening_again_changes_nothing_but_outputs(lab):
    course = json.loads((NOTEBOOKS / lab.path.name).read_text())
    lab.save()
    lab.open()
    saved = json.loads(lab.path.read_text())
    assert [cell["source"] for cell in saved["cells"]] == [cell["source"] for cell in course["cells"]]
    assert [cell["id"] for cell in saved["cells"]] == [cell["id"] for cell in course["cells"]]
    # a checkout whose notebook was run and saved in JupyterLab is not refused for the metadata that it wrote
    folder = PLACE / "checkout"
    shutil.copytree(NOTEBOOKS / "src", folder / "src", dirs_exist_ok=True)
    clean = saved | {"cells": [cell | ({"outputs": []} if "outputs" in cell else {}) for cell in saved["cells"]]}
    (folder / lab.path.name).write_text(json.dumps(clean, indent=1))
    said = [sentence for sentence in differences(folder, [lab.path.stem]) if "no source" not in sentence]
    assert said == []
