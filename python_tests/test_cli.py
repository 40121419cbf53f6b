from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import pytest

import ebm_fast
from ebm_fast.cli import main


def one_line_error(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """The error that a command ends with: exit code 2, one line, no traceback, nothing on stdout."""
    try:
        code: object = main(arguments)
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    assert captured.err.endswith("\n")
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("ebm-fast")
    return captured.err


def write_idx(folder: Path, name: str, shape: tuple[int, ...], payload: bytes) -> None:
    header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    (folder / f"{name}.gz").write_bytes(gzip.compress(header + payload))


def test_version(capsys):
    assert main(["version"]) == 0
    assert capsys.readouterr().out == f"ebm_fast {ebm_fast.__version__}\n"


def test_help_names_every_command_and_hides_test_options(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(command in text for command in ("demo", "doctor", "version"))
    with pytest.raises(SystemExit):
        main(["demo", "--help"])
    text = capsys.readouterr().out
    assert "--resume" in text
    assert "--iterations" not in text


def test_module_runs_as_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "ebm_fast.cli", "demo", "--data", "mnist"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "--root" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["COMMAND"]),
        (["paint"], ["paint", "demo"]),
        (["demo", "--data", "letters"], ["letters", "digits", "mnist"]),
        (["demo", "--seed", "x"], ["--seed", "'x'"]),
        (["demo", "--seed", "-1"], ["seed", "-1"]),
        (["demo", "--minutes", "0"], ["minutes", "0"]),
        (["demo", "--minutes", "nan"], ["minutes", "nan"]),
        (["demo", "--iterations", "0"], ["iterations", "0"]),
        (["demo", "--threads", "0"], ["threads", "0"]),
        (["demo", "--data", "mnist"], ["root", "--root"]),
        (["demo", "--root", "somewhere"], ["root", "digits", "somewhere"]),
    ],
)
def test_wrong_arguments_get_one_line(capsys, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    error = one_line_error(capsys, arguments)
    assert all(word in error for word in words), error
    assert list(tmp_path.iterdir()) == []


def test_root_that_is_no_folder(capsys, tmp_path):
    out = tmp_path / "out"
    common = ["demo", "--data", "mnist", "--out", str(out)]
    assert "absent" in one_line_error(capsys, [*common, "--root", str(tmp_path / "absent")])
    (tmp_path / "file").write_text("")
    assert "file" in one_line_error(capsys, [*common, "--root", str(tmp_path / "file")])
    assert not out.exists()


def test_root_without_the_files(capsys, tmp_path):
    error = one_line_error(
        capsys, ["demo", "--data", "mnist", "--root", str(tmp_path), "--out", str(tmp_path / "o")]
    )
    assert "train-images-idx3-ubyte" in error


def test_corrupt_file_is_named(capsys, tmp_path):
    write_idx(tmp_path, "train-images-idx3-ubyte", (2, 28, 28), bytes(2 * 28 * 28))
    write_idx(tmp_path, "train-labels-idx1-ubyte", (2,), bytes(2))
    whole = (tmp_path / "train-images-idx3-ubyte.gz").read_bytes()
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(whole[: len(whole) // 2])
    error = one_line_error(
        capsys, ["demo", "--data", "mnist", "--root", str(tmp_path), "--out", str(tmp_path / "o")]
    )
    assert "train-images-idx3-ubyte.gz" in error
    assert "truncated" in error


def test_out_that_is_a_file(capsys, tmp_path):
    (tmp_path / "taken").write_text("precious")
    error = one_line_error(capsys, ["demo", "--out", str(tmp_path / "taken"), "--iterations", "1"])
    assert "taken" in error
    assert (tmp_path / "taken").read_text() == "precious"


def test_resume_without_a_run(capsys, tmp_path):
    error = one_line_error(capsys, ["demo", "--out", str(tmp_path), "--resume"])
    assert "resume" in error
    assert str(tmp_path) in error


def test_ctrl_c_ends_with_130(capsys, monkeypatch):
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ebm_fast.demo.run", interrupted)
    assert main(["demo"]) == 130
    assert "interrupted" in capsys.readouterr().err
