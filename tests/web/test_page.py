"""The page in a browser: certify, drop a file, attack, compare runs; keyboard, phone, axe."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api")
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
if BROWSER is None:
    pytest.skip("there is no chromium here (apt install chromium)", allow_module_level=True)

from playwright.sync_api import Browser, Page, expect, sync_playwright

from denoised_smoothing.certificates.plans import FixedBudget
from denoised_smoothing.datasets import load_dataset
from denoised_smoothing.images import to_png
from denoised_smoothing.models.catalogue import load_classifier, load_denoiser
from denoised_smoothing.runs.run import CertificationRun
from denoised_smoothing.smoothing.classifier import SmoothedClassifier
from denoised_smoothing.store import Store
from denoised_smoothing.web.limits import Limits
from denoised_smoothing.web.served import ServedModels
from denoised_smoothing.web.service import Service
from tests.certificates.samples import setting_of, stages

from .conftest import running

WAIT = 60_000
DESKTOP, PHONE = (1280, 800), (390, 844)


@pytest.fixture(scope="module")
def address(models: ServedModels, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Store(tmp_path_factory.mktemp("page") / "runs.sqlite") as store:
        for name, denoiser in (("with", "digits-stability"), ("without", "none")):
            smoothed = SmoothedClassifier(load_classifier("digits"), 0.5, load_denoiser(denoiser))
            CertificationRun(
                smoothed, load_dataset("digits"), FixedBudget(20, 200), 0.001, "digits", denoiser,
                name=name, limit=6,
            ).execute(store)  # fmt: skip
        with running(Service(models, store, Limits(rate=10_000, grace=1))) as opened:
            yield opened


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


class Pages:
    """Opens pages that may print nothing on the console and load nothing from other sites."""

    def __init__(self, browser: Browser, address: str) -> None:
        self._browser, self.address = browser, address
        self.messages: list[str] = []
        self._contexts: list[Any] = []

    def open(self, size: tuple[int, int] = DESKTOP, view: str = "certify", **more: Any) -> Page:
        context = self._browser.new_context(viewport={"width": size[0], "height": size[1]}, **more)
        self._contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.on("pageerror", lambda error: self.messages.append(str(error)))
        page.on("console", lambda message: self.messages.append(message.text))
        page.on("request", self._check_request)
        page.goto(f"{self.address}/#{view}")
        page.wait_for_selector(f"html[data-ready={view}]")
        return page

    def _check_request(self, request: Any) -> None:
        if not request.url.startswith((self.address, "data:", "blob:")):
            self.messages.append(f"loaded {request.url}")

    def close(self) -> None:
        for context in self._contexts:
            context.close()
        assert self.messages == []


@pytest.fixture
def pages(browser: Browser, address: str) -> Iterator[Pages]:
    opened = Pages(browser, address)
    yield opened
    opened.close()


def finished(page: Page, panels: int) -> None:
    expect(page.locator(".panel[data-state=done]")).to_have_count(panels, timeout=WAIT)


def fits(page: Page) -> None:
    """Nothing is wider than the screen."""
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0


def test_certify_an_example_without_and_with_denoiser(pages: Pages) -> None:
    page = pages.open()
    page.click("#examples button:nth-child(4)")
    page.get_by_text("1,000", exact=True).click()
    page.click("#go")
    finished(page, 2)
    without, with_denoiser = page.locator(".panel").all()
    assert with_denoiser.get_attribute("data-label") == "2"
    assert float(with_denoiser.get_attribute("data-radius") or 0) > 0.1
    assert float(without.get_attribute("data-radius") or 0) < 0.1
    expect(with_denoiser.locator(".answer")).to_contain_text("cannot change within radius")
    assert with_denoiser.locator(".grid li img").count() == 48
    assert without.locator(".grid li img").count() == 24
    expect(with_denoiser.locator(".sum img")).to_have_count(3)
    page.uncheck("#compare")
    page.select_option("#denoiser", "none")
    page.click("#go")
    finished(page, 1)


def test_check_a_certificate(pages: Pages, tmp_path: Path) -> None:
    certificate = FixedBudget(100, 1_000).certificate(stages((100,), (950, 50)), setting_of())
    page = pages.open(view="check")
    for values, name, text in (
        (certificate.to_dict(), "right.json", "1 holds"),
        (certificate.to_dict() | {"radius": 0.9}, "wrong.json", "1 altered"),
    ):
        path = tmp_path / name
        path.write_text(json.dumps(values))
        page.set_input_files("#check-file", path)
        expect(page.locator("#check-result h2")).to_have_text(name)
        expect(page.locator("#check-result .headline")).to_have_text(text)
    expect(page.locator("#check-result")).to_contain_text("The field 'radius'")
    fits(page)
    path.write_bytes(b"no certificate")
    page.set_input_files("#check-file", [])
    with page.expect_response("**/v1/verifications"):
        page.set_input_files("#check-file", path)
    expect(page.locator("#check-problem")).to_contain_text("neither a certificate")
    pages.messages.clear()  # a browser prints the status 422


def test_drop_a_file(pages: Pages, models: ServedModels, tmp_path: Path) -> None:
    path = tmp_path / "seven.png"
    path.write_bytes(to_png(load_dataset("digits")[11].image))
    page = pages.open()
    page.set_input_files("#file", path)
    expect(page.locator("#chosen-note")).to_have_text("seven.png")
    page.get_by_text("1,000", exact=True).click()
    page.uncheck("#compare")
    page.click("#go")
    finished(page, 1)
    assert page.locator(".panel").get_attribute("data-label") == "7"
    dropped = page.evaluate_handle("() => new DataTransfer()")
    page.evaluate(
        "(to) => to.items.add(new File(['no image'], 'notes.txt', {type: 'text/plain'}))", dropped
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": dropped})
    page.click("#go")
    expect(page.locator(".panel .answer")).to_contain_text("expected an intact file", timeout=WAIT)
    pages.messages.clear()  # the browser notes the refusal


def test_attack_the_image(pages: Pages) -> None:
    page = pages.open()
    page.uncheck("#compare")
    page.click("#go")
    finished(page, 1)
    page.get_by_role("button", name="Attack the image").click()
    expect(page.locator(".tries li")).to_have_count(1, timeout=WAIT)
    assert page.locator(".tries li").first.get_attribute("data-outcome") == "stands"
    page.locator(".break input").fill("6")
    page.get_by_role("button", name="Attack the image").click()
    expect(page.locator(".tries li")).to_have_count(2, timeout=WAIT)
    assert page.locator(".tries li").first.get_attribute("data-outcome") != "stands"


def test_runs_are_compared_and_downloaded(pages: Pages) -> None:
    page = pages.open(view="runs")
    for box in page.locator(".run-table input").all():
        box.check()
    page.get_by_role("button", name="Compare 2 runs").click()
    curves = page.locator(".curves svg").first
    expect(curves).to_be_visible()
    curves.focus()
    best = page.locator(".legend li", has_text="stability").locator("b")
    assert best.text_content() != "0.0 %"
    before = best.text_content()
    for _ in range(30):
        page.keyboard.press("ArrowRight")
    assert best.text_content() != before
    with page.expect_download() as report:
        page.get_by_role("button", name="HTML report").click()
    assert "Certified robustness" in Path(report.value.path()).read_text("utf-8")
    page.locator(".run-table a").first.click()
    page.locator(".image-table button").first.click()
    expect(page.locator("dialog[open] .vote").first).to_be_visible()
    page.keyboard.press("Escape")
    with page.expect_download() as table:
        page.get_by_role("button", name="csv").click()
    assert Path(table.value.path()).read_text("utf-8").startswith("idx,label")


def test_phone(pages: Pages) -> None:
    page = pages.open(PHONE, has_touch=True)
    fits(page)
    page.get_by_text("1,000", exact=True).click()
    page.click("#go")
    finished(page, 2)
    fits(page)
    page.goto(f"{pages.address}/#runs")
    page.locator(".run-table a").first.click()
    page.wait_for_selector(".image-table")
    fits(page)


def test_keyboard_alone(pages: Pages) -> None:
    page = pages.open()

    def until(selector: str, most: int = 40) -> None:
        for _ in range(most):
            page.keyboard.press("Tab")
            if page.locator(f"{selector}:focus").count():
                return
        raise AssertionError(f"{selector} cannot be reached by Tab")

    until(".skip", 1)
    until("#file")
    until("#examples button")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#examples button").nth(1)).to_have_attribute("aria-checked", "true")
    expect(page.locator("#chosen-note")).to_have_text("True label: “4”.")
    until("#denoiser")
    until("input[name=sigma]")
    page.keyboard.press("ArrowLeft")
    until("input[name=plan]")
    page.keyboard.press("ArrowLeft")
    until("#compare")
    page.keyboard.press("Space")
    until("#go", 2)
    page.keyboard.press("Enter")
    finished(page, 1)
    assert page.locator(".panel").get_attribute("data-label") == "4"
    until(".break input[type=range]")
    until(".break button")
    page.keyboard.press("Enter")
    expect(page.locator(".tries li")).to_have_count(1, timeout=WAIT)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_findings_of_axe(pages: Pages, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()

    def check(page: Page) -> None:
        found = axe.run(page).response["violations"]
        assert [
            (f["id"], f["nodes"][0]["html"])
            for f in found
            if f["impact"] in ("serious", "critical")
        ] == []

    page = pages.open(color_scheme=scheme, reduced_motion="reduce", bypass_csp=True)
    page.get_by_text("1,000", exact=True).click()
    page.click("#go")
    finished(page, 2)
    page.get_by_role("button", name="Attack the image").last.click()
    expect(page.locator(".tries li")).to_have_count(1, timeout=WAIT)
    check(page)
    page.goto(f"{pages.address}/#runs")
    page.locator(".run-table a").first.click()
    page.wait_for_selector(".image-table")
    page.locator(".image-table button").first.click()
    page.wait_for_selector("dialog[open]")
    check(page)
    page.goto(f"{pages.address}/#check")
    page.wait_for_selector("html[data-ready=check]")
    page.set_input_files("#check-file", {"name": "a", "mimeType": "", "buffer": b'{"sigma": 1}'})
    expect(page.locator("#check-result .headline")).to_have_text("1 malformed")
    check(page)
