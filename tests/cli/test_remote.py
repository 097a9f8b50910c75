"""The commands with remote classifiers: cost, limits, and one clear sentence."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "remote"))

from fake import KEY, FakeVendor, Trouble, by_chance
from vendors import BY_NAME, CASES

from denoised_smoothing import Store
from denoised_smoothing.cli import main
from denoised_smoothing.remote.log import StoreLog
from denoised_smoothing.remote.vendors.aws import Rekognition
from denoised_smoothing.remote.vendors.base import Limits

SPECS = {
    "aws": "aws",
    "google": "google?endpoint={url}",
    "azure": "azure",
    "clarifai": "clarifai:general-image-recognition",
    "openai": "openai:vision?labels=cat,dog",
    "http": "http:{url}/classify?label=predictions#token_env=SERVER_TOKEN",
    "kserve": "http:{url}/v2/models/resnet?protocol=kserve&token_env=SERVER_TOKEN",
}


@pytest.fixture
def fake() -> Iterator[FakeVendor]:
    with FakeVendor(by_chance({"cat": 0.97, "dog": 0.03})) as server:
        yield server


@dataclass(frozen=True)
class Outcome:
    code: int
    stdout: str
    stderr: str


class Commands:
    """Runs commands in a folder of images, with no credentials but those that are given."""

    def __init__(
        self, folder: Path, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.folder, self._patch, self._capsys = folder, patch, capsys
        for number, name in enumerate(("cat", "dog")):
            path = folder / "images" / name / "a.png"
            path.parent.mkdir(parents=True)
            levels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            PIL.Image.fromarray(levels).save(path)
        for name in list(os.environ):
            if name.startswith(("AWS_", "OPENAI_", "GOOGLE_", "CLARIFAI_", "VISION_")):
                patch.delenv(name)
        for name, value in {
            "HOME": str(folder), "NO_PROXY": "127.0.0.1", "AWS_EC2_METADATA_DISABLED": "true",
            "NO_GCE_CHECK": "true", "COLUMNS": "200",
        }.items():  # fmt: skip
            patch.setenv(name, value)
        patch.chdir(folder)

    def run(self, *arguments: str, code: int = 0, **environment: str) -> Outcome:
        for name, value in environment.items():
            self._patch.setenv(name, value)
        self._patch.setattr(sys, "argv", ["denoised-smoothing", *arguments])
        self._patch.setattr(sys, "stdin", io.StringIO())
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        done = Outcome(int(end.value.code or 0), *self._capsys.readouterr())
        assert done.code == code, done.stderr
        return done

    def certify(self, spec: str, *options: str, **more: Any) -> Outcome:
        common = ("--sigma", "0.25", "--radii", "0.25", "--store", "s.sqlite", "--engine", "torch")
        return self.run("certify", "folder:images", "--classifier", spec, *common, *options, **more)


@pytest.fixture
def commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Commands:
    return Commands(tmp_path, monkeypatch, capsys)


class TestBuying:
    def test_from_nothing_to_a_certificate_and_its_price(
        self, fake: FakeVendor, commands: Commands
    ) -> None:
        done = commands.certify(
            "aws?size=96", "--yes", "--rate", "0", "--max-cost", "1", "--run", "paid",
            "--json", **BY_NAME["aws"].environment(fake.url),
        )  # fmt: skip
        assert "aws?size=96: at most 20,100 more copies, a query each, $20.10" in done.stderr
        assert "repeated: at most 140,700 queries, $140.70." in done.stderr
        assert "Budget of the run: $1" in done.stderr
        (row,) = json.loads(done.stdout)["rows"]
        assert row["measure"] == "certified accuracy"
        assert row["certified"]["0.25"] == 1  # of 2
        with Store(commands.folder / "s.sqlite", read_only=True) as store:
            settings = store.run("paid").settings
            spent = StoreLog(store, "paid").spending()
        assert settings["plan"]["kind"] == "anytime"
        assert settings["plan"]["every"] == 10
        assert spent.charged == fake.attempts < 2_000
        assert f"{spent.charged:,} queries sent, {spent.charged:,} paid for: $0." in done.stderr
        assert KEY.encode() not in (commands.folder / "s.sqlite").read_bytes()
        assert KEY not in done.stdout + done.stderr

    def test_nothing_is_paid_without_a_yes(self, fake: FakeVendor, commands: Commands) -> None:
        environment = BY_NAME["aws"].environment(fake.url)
        done = commands.certify("aws", code=2, **environment)
        assert "No query was sent: confirmation needs a terminal" in done.stderr
        assert "Add --yes" in done.stderr
        assert fake.attempts == 0

    def test_a_server_of_ones_own_asks_nothing(self, fake: FakeVendor, commands: Commands) -> None:
        done = commands.certify(f"http:{fake.url}/classify?label=predictions[0].label")
        assert "Certified accuracy" in done.stdout
        assert fake.attempts > 0

    def test_a_limit_stops_with_what_is_provable_so_far(
        self, fake: FakeVendor, commands: Commands
    ) -> None:
        spec = f"http:{fake.url}/classify?label=predictions"
        done = commands.certify(
            spec, "--max-queries", "80", "--in-flight", "4", "--run", "r", code=1
        )
        assert "The budget of 80 queries is used up (80 queries, $0.0000)" in done.stderr
        assert "All answers are stored. Repeat the command to resume" in done.stderr
        assert fake.attempts == 80
        paid = fake.attempts
        done = commands.certify(spec, "--run", "r", "--json")
        assert json.loads(done.stdout)["rows"][0]["images"] == 2
        assert fake.answered_twice() == []
        assert paid < fake.attempts

    def test_offline_buys_nothing(self, fake: FakeVendor, commands: Commands) -> None:
        spec = f"http:{fake.url}/classify?label=predictions"
        commands.certify(spec, "--n0", "20", "--n", "100", "--run", "r")
        paid = fake.attempts
        done = commands.certify(
            spec, "--offline", "--run", "r", "--n0", "20", "--n", "60", "--alpha", "0.01",
            "--json",
        )  # fmt: skip
        (name,) = json.loads(done.stdout)["runs"]
        assert name.startswith("r-offline-")
        assert fake.attempts == paid
        # An anytime plan that lacks answers has a radius all the same; one without n0 has none.
        done = commands.certify(
            spec, "--offline", "--run", "r", "--plan", "anytime", "--radii", "0.5", "--max-n",
            "1000", "--n0", "20", "--json",
        )  # fmt: skip
        assert "lacks answers that this plan needs (images: 2). Use" in done.stderr
        assert json.loads(done.stdout)["rows"][0]["images"] == 2
        done = commands.certify(
            spec, "--offline", "--run", "r", "--n0", "30", "--n", "60", code=2
        )  # fmt: skip
        assert "lacks answers that this plan needs, for every image. Use its --n0" in done.stderr
        assert fake.attempts == paid
        done = commands.certify(spec, "--offline", code=2)
        assert "--offline needs the name of a stored run, got none. Add --run NAME." in done.stderr

    def test_rehearsal_costs_nothing(self, commands: Commands) -> None:
        done = commands.certify(
            "simulated?weights=cat=0.95,dog=0.05&errors=0.1&price=0.01", "--yes"
        )
        assert "$0.01 a query" in done.stderr
        assert "paid for" in done.stderr

    def test_predict_names_the_label(self, fake: FakeVendor, commands: Commands) -> None:
        spec = f"http:{fake.url}/classify?label=predictions"
        done = commands.run(
            "predict", "images/cat/a.png", "--classifier", spec, "--sigma", "0.25",
            "--n", "100", "--json",
        )  # fmt: skip
        assert json.loads(done.stdout)["label_name"] == "cat"

    def test_predict_asks_as_well(self, fake: FakeVendor, commands: Commands) -> None:
        environment = BY_NAME["aws"].environment(fake.url)
        done = commands.run(
            "predict", "images/cat/a.png", "--classifier", "aws", "--sigma", "0.25",
            code=2, **environment,
        )  # fmt: skip
        assert "Add --yes" in done.stderr
        assert "Answers are not stored. 'certify' stores them." in done.stderr
        assert fake.attempts == 0

    def test_a_price_that_nobody_verified_says_so(
        self, fake: FakeVendor, commands: Commands
    ) -> None:
        environment = BY_NAME["azure"].environment(fake.url)
        done = commands.certify("azure", code=2, **environment)
        assert "at $0.001 a query (unverified price; set --price: " in done.stderr
        done = commands.certify("azure", "--price", "0.002", code=2, **environment)
        assert "at $0.002 a query (as given)" in done.stderr
        assert "unverified" not in done.stderr
        assert fake.attempts == 0

    def test_a_prediction_that_fails_does_not_say_that_answers_are_kept(
        self, fake: FakeVendor, commands: Commands
    ) -> None:
        done = commands.run(
            "predict", "images/cat/a.png", "--classifier", f"http:{fake.url}/x?label=predictions",
            "--sigma", "0.25", "--max-queries", "10", code=1,
        )  # fmt: skip
        assert "These answers are not stored. Runs in a store ('certify'" in done.stderr


SECRET = "marked-secret-7f3a9c51e8d2"


class TestSecrets:
    """A marked secret in a vendor's credentials is in nothing that is stored or shown."""

    @pytest.mark.parametrize("name", [case.name for case in CASES if case.secret])
    def test_a_quoted_secret_is_nowhere(
        self, name: str, fake: FakeVendor, commands: Commands, caplog: pytest.LogCaptureFixture
    ) -> None:
        case, spec = BY_NAME[name], SPECS[name].format(url=fake.url)
        environment = {
            key: value.replace(KEY, SECRET).replace("very-secret-0123456789", SECRET)
            for key, value in case.environment(fake.url).items()
        }
        if name == "aws":  # the identifier of a key is in every request, the key itself in none
            environment["AWS_ACCESS_KEY_ID"] = KEY

        def quoting(answer: Any) -> bytes:
            text = json.dumps(answer)
            for label in ("cat", "dog"):
                text = text.replace(f'"{label}', f'"{SECRET} {label}')
            # Behind so many letters it lies where a long answer is cut.
            return f'{text[:-1]}, "a": "{"z" * 1985}{SECRET}"}}'.encode()

        fake.accepted, fake.body = SECRET, quoting
        made = [
            commands.certify(
                spec, "--yes", "--rate", "0", "--run", "r", "--plan", "fixed", "--n0", "3",
                "--n", "9", "--limit", "1", **environment,
            ),
            commands.run("report", "r", "--store", "s.sqlite", "--output", "report.html"),
            commands.run("export", "r", "--store", "s.sqlite", "--output", "r.csv"),
            commands.run("list", "runs", "--store", "s.sqlite", "--json"),
        ]  # fmt: skip
        texts = [caplog.text, *(text for each in made for text in (each.stdout, each.stderr))]
        files = [path.read_bytes() for path in commands.folder.rglob("*") if path.is_file()]
        assert len(files) >= 5
        assert any(b"[secret]" in content for content in files)  # it was quoted
        for part in (SECRET, SECRET[:14]):
            assert not [text for text in texts if part in text]
            assert not [content for content in files if part.encode() in content]


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("huge", "--largest-answer must be a size such as 500KB or 2MB, got 'huge'"),
        ("0", "--largest-answer must be a size"),
    ],
)
def test_the_size_of_an_answer_has_a_unit(size: str, message: str, commands: Commands) -> None:
    assert message in commands.certify("simulated", "--largest-answer", size, code=2).stderr


def test_a_sweep_buys_nothing(fake: FakeVendor, commands: Commands) -> None:
    done = commands.run(
        "sweep", "folder:images", "--classifier", f"http:{fake.url}/classify", "--radius", "0.1",
        "--sigmas", "0.1,0.2", code=2,
    )  # fmt: skip
    assert "This command does not support remote classifiers, got" in done.stderr
    assert fake.attempts == 0


GONE = "http://127.0.0.1:9"  # the port of "discard", where nothing listens
SENTENCES = {
    "no key": ("aws", {"AWS_DEFAULT_REGION": "x"}, 2, "aws needs credentials, and none are found"),
    "no region": ("aws", {"AWS_ACCESS_KEY_ID": "x"}, 2, "aws needs a region, and none is set"),
    "no azure address": ("azure", {"VISION_KEY": "x"}, 2, "VISION_ENDPOINT is not set"),
    "no azure key": ("azure", {"VISION_ENDPOINT": GONE}, 2, "VISION_KEY is not set"),
    "no clarifai key": ("clarifai:x", {}, 2, "CLARIFAI_PAT, which is not set"),
    "no openai key": ("openai:x?labels=cat,dog", {}, 2, "OPENAI_API_KEY, which is not set"),
    "no openai labels": ("openai:x", {}, 2, "needs at least 2 labels, got []"),
    "no google key": ("google", {}, 2, "google needs credentials, and none are found"),
    "no token": (f"http:{GONE}/x?token_env=NONE_SUCH", {}, 2, "'NONE_SUCH' must hold a token"),
    "unreachable": (
        f"http:{GONE}/x",
        {},
        1,
        "cannot be reached: no connection to http://127.0.0.1",
    ),
    "no JMESPath": (f"http:{GONE}/x?label=a[", {}, 2, "must be a JMESPath expression"),
    "an odd option": ("aws?siez=96", {}, 2, "option 'siez' is not known. Did you mean size?"),
    "too small a size": ("aws?size=1", {}, 2, "2 to 10000 pixels, got 1"),
    "no such label file": ("aws?labels=none.txt", {}, 2, "No such file or directory: 'none.txt'"),
    "an unknown price": ("openai:x?labels=a,b", {"OPENAI_API_KEY": "x"}, 2, "Add --price DOLLARS"),
}


@pytest.mark.parametrize("scenario", SENTENCES)
def test_one_clear_sentence(commands: Commands, scenario: str) -> None:
    spec, environment, code, sentence = SENTENCES[scenario]
    options = ["--max-cost", "1"] if scenario == "an unknown price" else []
    done = commands.certify(spec, "--yes", *options, code=code, **environment)
    assert sentence in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    if (commands.folder / "s.sqlite").exists():
        with Store(commands.folder / "s.sqlite", read_only=True) as store:
            for held in store.runs():
                assert not [a for a in StoreLog(store, held.name).history() if a.final]


@pytest.mark.parametrize(
    ("trouble", "sentence"),
    [
        (Trouble.KEY, "Check the key, its rights and the quota of the account"),
        (Trouble.MODEL, "Check the name of the model and the address"),
        (Trouble.REJECTED, "Check what sizes and formats the vendor accepts"),
    ],
)
def test_what_the_vendor_refuses_stops_at_the_first_query(
    fake: FakeVendor, commands: Commands, trouble: Trouble, sentence: str
) -> None:
    fake.script = lambda number, image: trouble
    environment = BY_NAME["azure"].environment(fake.url)
    done = commands.certify("azure", "--yes", code=1, **environment)
    assert sentence in done.stderr
    assert fake.attempts == 1


def test_an_image_beyond_the_limits_is_refused_before_it_is_sent(
    fake: FakeVendor, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Rekognition, "limits", Limits(min_side=80, max_bytes=1000))
    environment = BY_NAME["aws"].environment(fake.url)
    done = commands.certify("aws", "--yes", code=2, **environment)
    assert "bytes, and the vendor accepts 1,000 at most. Certify at a smaller" in done.stderr
    assert fake.attempts == 0
