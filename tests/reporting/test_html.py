from __future__ import annotations

import base64
import html
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from denoised_smoothing.certificates.counts import LabelCounts, Stage
from denoised_smoothing.certificates.groups import Groups
from denoised_smoothing.certificates.plans import Anytime
from denoised_smoothing.certificates.radii import format_down
from denoised_smoothing.errors import MissingExtraError, SettingError
from denoised_smoothing.images import load_image
from denoised_smoothing.reporting.further_claims import Questions
from denoised_smoothing.reporting.html import _together, write_report
from denoised_smoothing.reporting.opening import Opening

from .samples import FakeExample, FakeImage, FakeStore, fake_run, image, png, results, votes

VOID = {"meta", "img", "path", "use", "rect"}


class Balance(HTMLParser):
    """Checks that every element is closed in order, and collects what a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href")
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def store(**changes: Any) -> FakeStore:
    """Run ``a`` without denoiser, run ``b`` with one, two images each, one with examples."""

    def images(right: int) -> list[FakeImage]:
        return [
            FakeImage(0, "image-0", 1, votes(0, (0, right, 990 - right), failed=10)),
            FakeImage(1, "image-1", 0, votes(1, (400, 350, 250))),
        ]

    examples = [
        FakeExample("image-0", kind, position, png(value=position))
        for kind, count in (("denoised", 2), ("noisy", 2), ("clean", 1))
        for position in reversed(range(count))
    ]
    names = ["cat", "<script>alert(1)</script>", "dog"]
    plain = fake_run("a", method="plain", label_names=names, **changes)
    denoised = fake_run("b", method="mine & yours", denoiser="unet", label_names=names)
    return FakeStore({"a": (plain, images(600), []), "b": (denoised, images(900), examples)})


def report(tmp_path: Path, *names: str, content: FakeStore | None = None, **options: Any) -> str:
    write_report(content or store(), names, tmp_path / "report.html", **options)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_headline_compares_with_no_denoiser(tmp_path: Path) -> None:
    assert (
        "50.0 % of 2 images are certified and correct within an L2 radius of 0.25, "
        "with mine &amp; yours at σ = 0.5; without a denoiser it is 0.0 %."
    ) in report(tmp_path, "a", "b")


def test_everything_untrusted_is_escaped(tmp_path: Path) -> None:
    text = report(tmp_path, "a", "b", title="<b>title", radii=(0.1,))
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<b>title" not in text


def test_nothing_is_fetched_and_every_element_is_closed(tmp_path: Path) -> None:
    text = report(tmp_path, "a", "b")
    page = Balance()
    page.feed(text)
    assert page.open == []
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in page.links)
    assert not page.tags & {"script", "link", "iframe"}
    assert not re.search(r"url\((?!#)|@import", text)


def test_examples_are_shown_in_order_with_votes_and_radius_rounded_down(tmp_path: Path) -> None:
    text = report(tmp_path, "b")
    shown = re.findall(r'base64,([^"]+)" alt="(\w+)" class="small"', text)
    assert [(kind, base64.b64decode(data)) for data, kind in shown] == [
        ("clean", png(value=0)),
        ("noisy", png(value=0)),
        ("noisy", png(value=1)),
        ("denoised", png(value=0)),
        ("denoised", png(value=1)),
    ]
    assert re.findall(r'<i(?: class="chosen")? style="width: ([\d.]+)%', text) == ["90.0", "9.0"]
    # 0.5 * Phi^-1 of the lower bound 0.867464... for 900 of 1000 at alpha 0.001
    assert "within L2 radius <strong>0.5572</strong>" in text
    assert "10 copies got no label" in text


def test_large_images_are_jpeg_and_not_pixelated(tmp_path: Path) -> None:
    content = store()
    content.content["b"][2][:] = [FakeExample("image-0", "clean", 0, png(size=128, value=77))]
    text = report(tmp_path, "b", content=content)
    assert 'class="small"' not in text
    [data] = re.findall(r'image/jpeg;base64,([^"]+)" alt="clean"', text)
    assert np.abs(load_image(base64.b64decode(data)) - 77 / 255).max() < 0.01


def opening(**changes: Any) -> Opening:
    image = np.full((3, 96, 96), 100 / 255, np.float32)
    changed = image.copy()
    changed[0, 5, 5] += 10 / 255
    return replace(
        Opening(image, changed, "<cat>", "dog & co", 10 / 255, run="b", image_id="image-0"),
        **changes,
    )


class TestOpening:
    def test_shows_both_answers_the_distance_and_the_certificate(self, tmp_path: Path) -> None:
        text = report(tmp_path, "a", "b", opening=opening())
        first = text[: text.index("<table>")]
        assert "the classifier answers <strong>&lt;cat&gt;</strong>" in first
        assert "changed by 0.039 in L2, it answers <strong>dog &amp; co</strong>" in first
        assert "the difference, 12 times as strong" in first
        assert "Noisy copies of the original vote (mine &amp; yours,\nσ = 0.5)," in first
        assert "within L2 radius <strong>0.5572</strong>" in first
        page = Balance()
        page.feed(text)
        assert page.open == []

    @pytest.mark.parametrize(("distance", "covered"), [(0.55, True), (0.56, False)])
    def test_says_whether_the_change_is_within_the_radius(
        self, distance: float, covered: bool, tmp_path: Path
    ) -> None:
        text = report(tmp_path, "b", opening=opening(distance=distance))
        assert ("this one included" in text) == covered

    def test_of_an_image_that_is_not_certified_nothing_is_claimed(self, tmp_path: Path) -> None:
        content = store()
        shown = [replace(held, image_id="image-1") for held in content.content["b"][2]]
        content.content["b"][2][:] = shown
        text = report(tmp_path, "b", content=content, opening=opening(image_id="image-1"))
        assert "too evenly to certify it here" in text
        assert "can alter the answer" not in text

    def test_the_difference_is_shown_around_grey(self) -> None:
        difference = opening().difference
        assert difference[0, 5, 5] == pytest.approx(0.5 + 12 * 10 / 255, abs=1e-5)
        assert difference[1, 5, 5] == difference[0, 0, 0] == 0.5

    @pytest.mark.parametrize("changes", [{"run": "a"}, {"run": "c"}, {"image_id": "image-1"}])
    def test_without_pictures_of_its_image_it_is_refused(
        self, changes: dict[str, str], tmp_path: Path
    ) -> None:
        with pytest.raises(SettingError, match="has no pictures of it"):
            report(tmp_path, "a", "b", opening=opening(**changes))


def test_long_settings_are_cut_and_absent_ones_are_none(tmp_path: Path) -> None:
    names = [f"class {number}" for number in range(1000)]
    text = report(tmp_path, "a", content=store(data_labels=names, engine=None))
    rows = dict(re.findall(r"<tr><th>(\w+)</th><td>(.*?)</td></tr>", text))
    assert rows["engine"] == "none"
    shown = html.unescape(rows["data_labels"])
    assert shown.startswith('["class 0", "class 1", ')
    assert shown.endswith(" [...]")
    assert 980 < len(shown) <= 1000


def test_settings_are_listed(tmp_path: Path) -> None:
    text = report(tmp_path, "b")
    assert "<tr><th>precision</th><td>float32</td></tr>" in text
    assert "<tr><th>seed</th><td>7</td></tr>" in text
    assert "<tr><th>command</th><td>certify digits</td></tr>" in text
    assert "<tr><th>version of torch</th><td>2.0</td></tr>" in text


def test_meaning_names_alpha_and_the_implied_linf_radius(tmp_path: Path) -> None:
    text = report(tmp_path, "a", "b", radii=(0.25, 0.5))
    assert "wrong with probability at most α = 0.001" in text
    assert "L2 radius 0.5 implies L∞ radius 0.06250 for images of 64 values" in text
    assert "8-bit image" not in text
    small = report(tmp_path, "a", "b", radii=(0.01, 0.03))
    assert "0.00375 for images of 64 values (below 1/255: no other 8-bit image lies" in small


def test_float_noise_is_named_as_unproven(tmp_path: Path) -> None:
    assert "Unproven" not in report(tmp_path, "a", "b")
    text = " ".join(report(tmp_path, "a", "b", content=store(noise="float")).split())
    assert "<strong>Unproven in floating point.</strong> a: the noise was added in" in text
    assert "The proof holds for exact Gaussian noise alone" in text


def test_engine_and_precision_are_named_where_they_are_not_the_usual_ones(tmp_path: Path) -> None:
    assert "The certificates are about the classifier as" not in report(tmp_path, "a", "b")
    content = store(engine="openvino", precision="int8")
    text = " ".join(report(tmp_path, "a", "b", content=content).split())
    assert "The certificates are about the classifier as openvino computes it in int8." in text
    assert ", openvino int8, σ = " in text


def test_runs_on_different_footing_are_marked(tmp_path: Path) -> None:
    assert "the runs differ in" not in report(tmp_path, "a", "b")
    text = report(tmp_path, "a", "b", content=store(alpha=0.01))
    assert "the runs differ in alpha." in text


def test_best_over_sigma_is_added_when_there_are_several(tmp_path: Path) -> None:
    assert "chosen in hindsight" not in report(tmp_path, "a", "b")
    content = store()
    _, images, examples = content.content["a"]
    content.content["c"] = (
        fake_run("c", method="plain", sigma=0.25),
        images,
        examples,
    )
    assert "chosen in hindsight" in report(tmp_path, "a", "b", "c", content=content)


def test_same_store_gives_the_same_file(tmp_path: Path) -> None:
    assert report(tmp_path, "a", "b") == report(tmp_path, "a", "b")


def test_statements_and_their_conditions_are_shown(tmp_path: Path) -> None:
    text = report(tmp_path, "a")
    assert "With 95 % confidence over the noise, the smoothed classifier" in text
    assert "% of the population, if the" in text
    assert "<th>not known to the run</th>" in text
    assert "Thin lines: of the population" in text
    assert "hold together" not in text


def test_unlabelled_data_speak_of_certified(tmp_path: Path) -> None:
    images = [FakeImage(0, "image-0", None, votes(0, (0, 1000)))]
    text = report(tmp_path, "a", content=FakeStore({"a": (fake_run(), images, [])}))
    assert "accuracy" not in text
    assert "100.0 % of 1 images are certified within" in text


def test_a_run_without_finished_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="Run 'a' has no finished image"):
        report(tmp_path, "a", content=FakeStore({"a": (fake_run(), [], [])}))
    assert list(tmp_path.iterdir()) == []


def test_missing_jinja2_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"denoised-smoothing\[report\]"):
        report(tmp_path, "a")


def test_unwritable_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="cannot write the output"):
        write_report(store(), ["a"], tmp_path / "missing" / "report.html")


def test_what_the_votes_of_an_image_that_abstains_prove(tmp_path: Path) -> None:
    selection = LabelCounts("a", "image-1", Stage.SELECTION, (5, 5))
    estimation = LabelCounts("a", "image-1", Stage.ESTIMATION, (500, 480, 20))
    counts = {Stage.SELECTION: selection, Stage.ESTIMATION: estimation}
    run = fake_run("a", label_names=("<cat>", "dog", "car"))
    example = FakeExample("image-1", "clean", 0, png(8))
    held = FakeStore({"a": (run, [FakeImage(1, "image-1", 2, counts)], [example])})
    write_report(held, ["a"], tmp_path / "report.html")  # type: ignore[arg-type]
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "no label certified" in page
    assert re.search(r"answers &lt;cat&gt; or dog at every image closer than 0\.\d+ in L2", page)
    assert "What the same votes prove: number of images" not in page
    asked = {"a": Questions((2,), (Groups({"pet": (0, 1)}, "kinds"),))}
    write_report(held, ["a"], tmp_path / "report.html", radii=(0.25,), questions=asked)  # type: ignore[arg-type]
    page = (tmp_path / "report.html").read_text("utf-8")
    for row in (("one of 2 labels", 0, 0), ("group (kinds)", 0, 0)):  # its true label is the car
        assert "".join(f"<td>{cell}</td>" for cell in row) in page
    # The group at the first radius of the table, at the whole alpha; sets at their own radius.
    assert (
        "the answer is pet (&lt;cat&gt;, dog) at every image closer than 0.2500 in L2 (wrong with "
        "probability at most 0.001)"
    ) in page
    assert "The counts are no bounds on a population.</caption>" in page
    assert "not included" not in page
    Balance().feed(page)


def test_top_labels_hold_together_and_other_answers_are_not_included(tmp_path: Path) -> None:
    selection = LabelCounts("a", "image-1", Stage.SELECTION, (5, 5))
    estimation = LabelCounts("a", "image-1", Stage.ESTIMATION, (500, 480, 20))
    images = [
        FakeImage(0, "image-0", 1, votes(0, (0, 900, 100))),
        FakeImage(1, "image-1", 0, {Stage.SELECTION: selection, Stage.ESTIMATION: estimation}),
    ]
    examples = [FakeExample(image.image_id, "clean", 0, png(8)) for image in images]
    content = FakeStore({"a": (fake_run("a"), images, examples)})
    beta = 0.0002
    written = write_report(
        content, ["a"], tmp_path / "report.html", radii=(0.25,), together=beta,  # type: ignore[arg-type]
        questions={"a": Questions((2,), (Groups({"pet": (0, 1)}),))},
    )  # fmt: skip
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "all certificates of top labels in this report hold together" in page
    assert "at α = 0.0002 / 2" in page
    lower = stats.beta.ppf(beta / 2, 900, 101)  # the top label of the first image
    [run] = written.runs
    assert run.images[0].radius == pytest.approx(0.5 * stats.norm.ppf(lower), abs=1e-6)
    assert f"within L2 radius <strong>{format_down(run.images[0].radius)}</strong>" in page
    assert "prove (not included in the statement about all certificates)" in page
    assert page.count("wrong with probability at most 0.0001)") == 2  # the set and the group
    assert "at most α, and not included in the statement" in page
    assert (written.radii, len(written.rows)) == ((0.25,), 1)


def test_questions_that_a_run_cannot_answer_name_it(tmp_path: Path) -> None:
    content = store(plan=Anytime((0.5,), max_n=1000, n0=0).to_dict())
    content.content["a"][1].clear()
    with pytest.raises(SettingError, match=r"Run 'a': .*--n0 50"):
        report(tmp_path, "b", "a", content=content, questions={"a": Questions((2,))})
    assert list(tmp_path.iterdir()) == []


def test_radius_0_is_about_the_images_themselves(tmp_path: Path) -> None:
    text = report(tmp_path, "b", radii=(0.0,))
    assert "50.0 % of 2 images are certified and correct, with mine" in text
    assert "σ = 0.5) is correct on at least" in text
    assert "norm 0 " not in text


def test_a_plan_without_selection_shows_no_sets(tmp_path: Path) -> None:
    plan = Anytime((0.5,), max_n=1000, n0=0)
    counts = {Stage.ESTIMATION: LabelCounts("a", "image-1", Stage.ESTIMATION, (500, 500))}
    run = fake_run("a", plan=plan.to_dict())
    example = FakeExample("image-1", "clean", 0, png(8))
    held = FakeStore({"a": (run, [FakeImage(1, "image-1", 0, counts)], [example])})
    write_report(held, ["a"], tmp_path / "report.html")  # type: ignore[arg-type]
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "no label certified" in page
    assert "The same votes prove" not in page


@pytest.mark.parametrize(
    ("beta", "said"), [(0.05, "0.95"), (0.07, "0.93"), (1e-7, "0.999999"), (0.1234567, "0.876543")]
)
def test_the_probability_that_all_hold_is_rounded_down(beta: float, said: str) -> None:
    assert f"With probability {said} over" in _together([results(image(0, 1, 1, 0.5))], beta)
