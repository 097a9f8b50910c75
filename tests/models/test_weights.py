"""weights.py: safetensors in and out."""

from __future__ import annotations

import errno
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from denoised_smoothing.errors import SettingError, WeightsError
from denoised_smoothing.models.fingerprints import fingerprint
from denoised_smoothing.models.weights import fill, load_weights, save_weights


def network(seed: int = 0, width: int = 4) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width))


def forget(tensors: dict[str, torch.Tensor], *names: str) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name not in names}


class TestFiles:
    def test_are_read_back_exactly(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "net.safetensors"
        original = network()
        save_weights(path, original, {"architecture": "tiny", "sigma": "0.25"})
        tensors, metadata = load_weights(str(path))
        assert metadata == {"architecture": "tiny", "sigma": "0.25"}
        assert tensors.keys() == original.state_dict().keys()
        for name, tensor in original.state_dict().items():
            assert torch.equal(tensors[name], tensor)
            assert tensors[name].dtype == tensor.dtype
            assert tensors[name].device.type == "cpu"

    def test_of_a_channels_last_module_are_read_back_exactly(self, tmp_path: Path) -> None:
        original = network().to(memory_format=torch.channels_last)
        save_weights(tmp_path / "net.safetensors", original, {})
        tensors, metadata = load_weights(tmp_path / "net.safetensors")
        assert torch.equal(tensors["0.weight"], original.state_dict()["0.weight"])
        assert metadata == {}

    @pytest.mark.parametrize("zip_file", [True, False])
    def test_a_pickle_of_torch_is_refused_and_not_opened(
        self, tmp_path: Path, zip_file: bool
    ) -> None:
        path = tmp_path / "net.safetensors"
        torch.save(network().state_dict(), path, _use_new_zipfile_serialization=zip_file)
        with pytest.raises(WeightsError, match=r"net\.safetensors is a pickle .* Convert the file"):
            load_weights(path)

    def test_code_in_a_pickle_is_not_run(self, tmp_path: Path) -> None:
        trace = tmp_path / "trace"

        class Bomb:
            def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
                return Path.touch, (trace,)

        path = tmp_path / "net.pth"
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            path.write_bytes(pickle.dumps(Bomb(), protocol=protocol))
            with pytest.raises(WeightsError, match=r"net\.pth is (a pickle|not a complete)"):
                load_weights(path)
        assert not trace.exists()
        pickle.loads(path.read_bytes())
        assert trace.exists(), "the bomb would have gone off"

    def test_a_header_whose_length_looks_like_a_pickle_is_read(self, tmp_path: Path) -> None:
        """The file begins with the header's length, in 1 of 32 files with the byte 0x80."""
        path = tmp_path / "net.safetensors"
        starts = set()
        for length in range(0, 256, 4):
            save_file({"a": torch.ones(2)}, path, metadata={"card": "x" * length})
            starts.add(path.read_bytes()[0])
            assert load_weights(path)[1] == {"card": "x" * length}
        assert 0x80 in starts

    @pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
    def test_a_truncated_file_is_refused(self, tmp_path: Path, share: float) -> None:
        path = tmp_path / "net.safetensors"
        save_weights(path, network(), {})
        whole = path.read_bytes()
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(
            WeightsError, match=r"net\.safetensors is not a complete .* Download or train it again"
        ):
            load_weights(path)

    def test_a_missing_file_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match=r"no weights file .*none\.safetensors\. Check"):
            load_weights(tmp_path / "none.safetensors")
        with pytest.raises(WeightsError, match="no weights file"):
            load_weights(tmp_path)

    def test_a_failed_write_leaves_the_old_file_and_no_half_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(path: Path, content: bytes) -> None:
            with path.open("wb") as file:
                file.write(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

        path = tmp_path / "net.safetensors"
        save_weights(path, network(), {"version": "1"})
        monkeypatch.setattr(Path, "write_bytes", fails)
        with pytest.raises(SettingError, match="No space left"):
            save_weights(path, network(seed=1), {"version": "2"})
        assert list(tmp_path.iterdir()) == [path]
        assert load_weights(path)[1] == {"version": "1"}

    def test_others_may_read_the_file_as_the_umask_says(self, tmp_path: Path) -> None:
        path, plain = tmp_path / "net.safetensors", tmp_path / "plain"
        save_weights(path, network(), {})
        plain.touch()
        assert path.stat().st_mode == plain.stat().st_mode

    def test_a_write_takes_the_place_of_the_old_file_at_once(self, tmp_path: Path) -> None:
        """Anyone who has the old file open still reads the old one."""
        path = tmp_path / "net.safetensors"
        save_weights(path, network(), {"version": "1"})
        with path.open("rb") as old:
            before = path.read_bytes()
            save_weights(path, network(seed=1), {"version": "2"})
            assert old.read() == before
        assert load_weights(path)[1] == {"version": "2"}


class TestFill:
    def test_gives_a_module_the_weights_of_another(self) -> None:
        source, target = network(), network(seed=1)
        fill(target, source.state_dict(), "net")
        assert fingerprint(target) == fingerprint(source)

    def test_does_without_the_counters_of_older_files(self) -> None:
        source, target = network(), network(seed=1)
        fill(target, forget(source.state_dict(), "1.num_batches_tracked"), "net")
        assert fingerprint(target) == fingerprint(source)

    @pytest.mark.parametrize(
        ("tensors", "difference"),
        [
            (forget(network().state_dict(), "1.bias"), r"architecture: 1\.bias is missing\. "),
            ({**network().state_dict(), "2.x": torch.ones(1)}, r"2\.x is not part of it"),
            (
                {**network().state_dict(), "0.bias": torch.ones(5)},
                r"0\.bias has shape \[5\] instead of \[4\]",
            ),
            (
                network(width=8).state_dict(),
                r"0\.weight has shape \[8, 1, 3, 3\] instead of \[4, 1, 3, 3\], .* and 3 more",
            ),
        ],
    )
    def test_names_what_differs_and_changes_nothing(
        self, tensors: dict[str, torch.Tensor], difference: str
    ) -> None:
        target = network()
        before = fingerprint(target)
        with pytest.raises(WeightsError, match=f"net.safetensors holds .*{difference}.*Name the"):
            fill(target, tensors, "net.safetensors")
        assert fingerprint(target) == before
