"""The photographs that ship with the package."""

from __future__ import annotations

from denoised_smoothing.datasets import load_dataset
from denoised_smoothing.models.shipped import shipped_folder


def test_twelve_photographs_with_the_elephant_first() -> None:
    photos = load_dataset("photos")
    assert len(photos) == 12
    names = photos.label_names
    assert names is not None
    assert len(names) == 1000
    shown = [names[label] for label in photos.labels if label is not None]
    assert shown[:3] == ["Indian elephant", "African elephant", "loggerhead"]
    for number in range(12):
        assert photos[number].image.shape == (3, 224, 224)
        assert photos.shape(number) == (3, 224, 224)


def test_each_has_an_author_a_license_and_a_source() -> None:
    folder = shipped_folder("photos")
    lines = (folder / "SOURCES.tsv").read_text("utf-8").splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    assert sorted(file for file, *_ in rows) == sorted(path.name for path in folder.glob("*.png"))
    for _, _, author, terms, source in rows:
        assert author
        assert terms == "https://creativecommons.org/licenses/by/2.0/"
        assert source.startswith(("https://www.flickr.com/photos/", "http://www.flickr.com/"))
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1.5e6
