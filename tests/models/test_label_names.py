"""models/label_names.py: names between commas and files; more files in test_checkpoints.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from denoised_smoothing.models.label_names import read_names


def test_a_file_whose_path_has_a_comma(tmp_path: Path) -> None:
    path = tmp_path / "a,b" / "names.txt"
    path.parent.mkdir()
    path.write_text("# a comment\ncat\n\ndog, wild \n", "utf-8")
    assert read_names(str(path)) == ("cat", "dog, wild")


def test_the_least_number_of_names(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("cat\n", "utf-8")
    assert read_names(str(path), least=1) == ("cat",)
    with pytest.raises(ValueError, match=r"^at least two names between commas"):
        read_names(str(path))
    path.write_text("# cat\n", "utf-8")
    with pytest.raises(ValueError, match=r"^names between commas"):
        read_names(str(path), least=1)


def test_long_lists_are_no_paths() -> None:
    assert len(read_names(",".join(map(str, range(1000))))) == 1000
