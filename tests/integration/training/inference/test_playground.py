"""The playground's page in a real browser (`make test-openvino`; Debian: apt install chromium)."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.short_run import short_run
from training import textual_inversion
from training.inference import png

pytestmark = pytest.mark.openvino

SECONDS = 240
WAIT = SECONDS * 1000  # milliseconds, as Playwright counts


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, pictures: Path, latents: Path
) -> Path:
    folder = tmp_path_factory.mktemp("playground") / "run"
    flags = short_run(tiny_model, pictures, latents, folder, num_inference_steps=2)
    assert textual_inversion.main(flags) == 0
    return folder


@pytest.fixture
def served(run: Path) -> Iterator[tuple[str, int]]:
    """The page's address, and the number of the process that serves it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "training.playground", str(run), "--port=0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"], process.pid
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) in (0, -signal.SIGINT)


@pytest.fixture
def page() -> Iterator[Any]:
    """A page of the system's Chromium, or where it has none of Playwright's own."""
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next((found for name in names if (found := shutil.which(name))), None)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        new = opened.new_page()
        new.set_default_timeout(WAIT)
        yield new
        opened.close()


def test_a_person_draws_compares_is_refused_and_goes_back(
    run: Path, served: tuple[str, int], page: Any
) -> None:
    url, process = served
    listening = [
        c.laddr.ip for c in psutil.Process(process).net_connections() if c.status == "LISTEN"
    ]
    assert listening == ["127.0.0.1"]
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    field = page.get_by_label

    def draw(shown: str) -> None:
        page.get_by_role("button", name="Draw", exact=True).click()
        page.wait_for_function(
            "text => [...document.querySelectorAll('textarea')].some(a => a.value.includes(text))",
            arg=shown,
        )

    field("Prompt", exact=True).fill("a <new> in snow")
    field("Seed").fill("5")
    draw("Seed: 5")
    assert page.get_by_text("without the word", exact=True).count() >= 1
    made = sorted((run / "generated").glob("a-*.png"))
    settings = [png.read(path)[0] for path in made]
    assert {(one.prompt, one.seed) for one in settings} == {
        ("a <new> in snow", 5), ("a toy in snow", 5),
    }  # fmt: skip

    field("Width").fill("33")
    page.get_by_role("button", name="Draw", exact=True).click()
    page.get_by_text("must be a multiple of 8").wait_for()
    assert sorted((run / "generated").glob("a-*.png")) == made

    field("Width").fill("32")
    field("Seed").fill("6")
    field("Steps").fill("3")
    draw("Seed: 6")
    page.get_by_alt_text("a <new> in snow, seed 5").click()
    page.wait_for_function("document.querySelector('#seed input').value === '5'")
    assert field("Steps").input_value() == "2"
    assert {
        address for address in asked if not address.startswith((url, "data:", "blob:"))
    } == set()
