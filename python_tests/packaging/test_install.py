"""Wheel, editable and strict-editable installs into fresh environments; what wheel and sdist hold."""

from __future__ import annotations

import json
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from ebm_fast import __version__

ROOT = Path(__file__).resolve().parents[2]
PROBE = """
import importlib.metadata, json
import torch
import ebm_fast as ef, ebm_fast._C, ebm_fast.kernels
assert ef.ops.backend.pick(None, torch.device("cpu")) == "cpu"
x = ef.ops.normal_(torch.full((3, 5), float("nan")), seed=1, backend="cpu")
assert torch.allclose(x, ef.ops.normal_(torch.empty(3, 5), seed=1, backend="reference"), atol=2e-6)
print(json.dumps({
    "version": importlib.metadata.version("ebm_fast"), "package": ef.__file__,
    "extension": ebm_fast._C.__file__, "kernels": ebm_fast.kernels.__file__,
}))
"""


def check_installation(environment) -> dict[str, Path]:
    """Everything imports, runs and is of this version, the command too; returns where the parts lie."""
    found = json.loads(environment(PROBE))
    assert found.pop("version") == __version__
    command = environment.folder / "bin" / "ebm-fast"
    said = environment(f"import subprocess; print(subprocess.check_output([{str(command)!r}, 'version'], text=True))")
    assert said.strip() == f"ebm_fast {__version__}"
    refusal = environment("import kernels", check=False)
    assert "ModuleNotFoundError: No module named 'kernels'" in refusal
    return {name: Path(path) for name, path in found.items()}


def test_wheel_installs(wheel, venv):
    environment = venv()
    environment.pip_install(wheel)
    for path in check_installation(environment).values():
        assert path.is_relative_to(environment.packages)


@pytest.mark.parametrize("mode", ["lenient", "strict"])
def test_editable_installs(mode, tree, wheel, venv):
    environment = venv()
    environment.pip_install(tree, "--config-settings", f"editable_mode={mode}", "--editable")
    where = check_installation(environment)
    assert where["package"].resolve() == tree / "ebm_fast" / "__init__.py"
    assert where["kernels"].resolve() == tree / "kernels" / "__init__.py"
    assert not (tree / "ebm_fast" / "kernels").exists()


def test_wheel_holds_the_package_and_nothing_else(wheel, tree):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (archive.read(n).decode() for n in names if n.endswith(".dist-info/METADATA"))
    files = {name for name in names if ".dist-info/" not in name}
    ours = {p.relative_to(tree).as_posix() for p in (tree / "ebm_fast").rglob("*.py")}
    kernels = {f"ebm_fast/{p.relative_to(tree).as_posix()}" for p in (tree / "kernels").rglob("*.py")}
    (extension,) = (name for name in files if name.startswith("ebm_fast/_C."))
    assert files == ours | kernels | {extension, "ebm_fast/py.typed"}
    assert "ebm_fast/kernels/__init__.py" in kernels
    assert any(name.split("/")[-1] == "LICENSE" for name in names)
    assert "MIT License" in metadata
    assert f"Version: {__version__}" in metadata


def test_wheel_is_built_for_this_interpreter(wheel):
    assert f"cp{sys.version_info.major}{sys.version_info.minor}" in wheel.name
    assert not wheel.name.endswith("-any.whl")


def test_sdist_holds_all_sources_and_nothing_built(sdist, tree):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder, patterns in {"csrc": ("*.h", "*.cpp", "*.inl", "*.cu"), "ebm_fast": ("*.py",), "kernels": ("*.py",)}.items():
        wanted = {p.relative_to(ROOT).as_posix() for pattern in patterns for p in (ROOT / folder).rglob(pattern)}
        assert wanted
        assert wanted <= names
    assert {"CMakeLists.txt", "setup.py", "pyproject.toml", "LICENSE", "README.md"} <= names
    assert not [name for name in names if name.endswith((".so", ".o", ".pyc"))]


def test_kernels_refuses_its_bare_name(tree, wheel, venv):
    """From the repository's root the folder is in reach, and a public package has the same name."""
    refusal = venv()("import kernels", cwd=tree, check=False)
    assert "ImportError: " in refusal
    assert "ebm_fast.kernels" in refusal.splitlines()[-1]
    assert not (ROOT / "ebm_fast" / "kernels").exists()


def test_every_folder_of_modules_is_a_package():
    """A folder without __init__.py would work from the source tree and be missing from the wheel."""
    folders = {p.parent for p in (ROOT / "ebm_fast").rglob("*.py")}
    assert [f for f in folders if not (f / "__init__.py").is_file()] == []
