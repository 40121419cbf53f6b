"""One source tree, unpacked from the sdist, that every packaging test builds from: C++ is compiled once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("ebm_fast", "kernels", "csrc", "setup.py", "CMakeLists.txt", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")


def run(*command: str | Path, cwd: Path, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command with no trace of this process's own paths; its output is in the assertion when it fails."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "EBM_FAST", "COV_"))}
    tools = Path(sys.executable).parent
    environment |= {"PATH": f"{tools}{os.pathsep}{environment['PATH']}", "EBM_FAST_CUDA": "off", **variables}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert not check or done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


class Venv:
    """A fresh environment that borrows this one's packages by path, so that nothing is downloaded.

    Paths alone: this environment's own .pth files, and with them its editable ebm_fast, stay out.
    """

    def __init__(self, folder: Path) -> None:
        run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
        self.folder, self.python = folder, folder / "bin" / "python"
        (packages,) = folder.glob("lib/python*/site-packages")
        self.packages = packages
        (packages / "parent.pth").write_text("\n".join(p for p in sys.path if p.endswith("-packages")) + "\n")

    def pip_install(self, what: Path, *options: str, **variables: str) -> str:
        return run(
            self.python, "-m", "pip", "install", "-v", "--no-build-isolation", "--no-deps", "--no-index", "--ignore-installed",
            *options, what, cwd=self.folder, **variables,
        ).stdout  # fmt: skip

    def __call__(self, code: str, cwd: Path | None = None, check: bool = True, **variables: str) -> str:
        done = run(self.python, "-c", code, cwd=cwd or self.folder, check=check, **variables)
        return done.stdout if check else done.stderr


@pytest.fixture(scope="session", name="run")
def run_fixture() -> Callable[..., subprocess.CompletedProcess[str]]:
    return run


@pytest.fixture(scope="session")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Venv]:
    """Makes fresh environments."""
    return lambda: Venv(tmp_path_factory.mktemp("fresh") / "venv")


@pytest.fixture(scope="session")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, built from a copy that holds nothing built."""
    copy = tmp_path_factory.mktemp("sdist") / "copy"
    copy.mkdir()
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        else:
            shutil.copy2(source, copy / name)
    run(sys.executable, "-c", "from setuptools import build_meta; build_meta.build_sdist('dist')", cwd=copy)
    (archive,) = (copy / "dist").glob("*.tar.gz")
    return archive


@pytest.fixture(scope="session")
def tree(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked sdist."""
    folder = tmp_path_factory.mktemp("tree")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = folder.iterdir()
    return unpacked


@pytest.fixture(scope="session")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel built from the unpacked sdist."""
    folder = tmp_path_factory.mktemp("wheel")
    run(
        sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index", "-w", folder, tree, cwd=folder
    )
    (built,) = folder.glob("*.whl")
    return built
