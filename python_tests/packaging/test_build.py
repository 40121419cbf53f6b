"""Builds are incremental, survive a vanished build environment, and refuse what they cannot do."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from pathlib import Path

import pytest


def objects(tree: Path) -> dict[str, int]:
    """Modification times of the compiled objects, by source."""
    times = {o.name: o.stat().st_mtime_ns for o in tree.glob("build/cmake-*/CMakeFiles/_C.dir/**/*.o")}
    assert "bindings.cpp.o" in times
    return times


def recompiled(before: dict[str, int], after: dict[str, int]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in after if after[name] != before[name]}


@pytest.fixture
def build(tree, wheel, venv):
    """Installs the tree in editable form and says what was compiled for it; the wheel's build came before."""
    environment = venv()

    def install() -> set[str]:
        before = objects(tree)
        environment.pip_install(tree, "--editable")
        environment("import ebm_fast._C")
        return recompiled(before, objects(tree))

    install()
    return install


def test_an_install_compiles_what_changed_and_no_more(build, tree):
    assert build() == set()
    source = tree / "csrc" / "cpu" / "launch.cpp"
    os.utime(source, (time.time(), time.time()))
    assert build() == {"launch.cpp.o"}
    assert build() == set()


def test_an_install_survives_the_end_of_the_environment_that_built_before(build, tree):
    """pip's isolated environments are deleted, and conda's; the CMake cache then names a ninja and a compiler that are gone."""
    (cache,) = tree.glob("build/cmake-*/CMakeCache.txt")
    tools = r"^(CMAKE_MAKE_PROGRAM|CMAKE_CXX_COMPILER|pybind11_DIR|CMAKE_COMMAND):(\w+)=.*$"
    text, changes = re.subn(tools, r"\1:\2=/gone/overlay/\1", cache.read_text(), flags=re.M)
    assert changes == 4
    cache.write_text(text)
    assert build() == set()
    assert "/gone/overlay" not in cache.read_text()


@pytest.mark.parametrize("entry", ["CMAKE_HOME_DIRECTORY:INTERNAL=/elsewhere", "CMAKE_GENERATOR:INTERNAL=Other"])
def test_a_moved_tree_or_another_generator_starts_anew(entry, tree, run, tmp_path):
    """CMake refuses both; a copied folder, cache included, must build all the same. (The build itself is stopped early.)"""
    copy = tmp_path / "copy"
    shutil.copytree(tree, copy, ignore=shutil.ignore_patterns("build", "csrc"))
    (cache,) = tree.glob("build/cmake-*/CMakeCache.txt")
    stale = copy / cache.relative_to(tree)
    stale.parent.mkdir(parents=True)
    text = cache.read_text().replace(f"CMAKE_HOME_DIRECTORY:INTERNAL={tree}", f"CMAKE_HOME_DIRECTORY:INTERNAL={copy}")
    stale.write_text(text)
    stop = {"cwd": copy, "check": False, "EBM_FAST_CUDA": "stop here"}
    run(sys.executable, "setup.py", "build_ext", **stop)
    assert stale.is_file()
    stale.write_text(re.sub(rf"^{entry.partition('=')[0]}=.*$", entry, text, flags=re.M))
    run(sys.executable, "setup.py", "build_ext", **stop)
    assert not stale.exists()


def test_an_unknown_cuda_wish_is_refused(tree, run):
    done = run(sys.executable, "setup.py", "build_ext", cwd=tree, check=False, EBM_FAST_CUDA="bogus")
    assert done.returncode != 0
    assert "EBM_FAST_CUDA must be auto, on or off, got 'bogus'" in done.stderr


def test_cuda_on_without_nvcc_says_so(tree, run, tmp_path):
    for tool in ("cmake", "ninja"):
        found = shutil.which(tool, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        if found:
            (tmp_path / tool).symlink_to(found)
    done = run(sys.executable, "setup.py", "build_ext", cwd=tree, check=False,
               EBM_FAST_CUDA="on", CUDA_HOME=str(tmp_path / "none"), PATH=str(tmp_path))  # fmt: skip
    assert done.returncode != 0
    assert "EBM_FAST_CUDA=on needs nvcc: put it on PATH or set CUDA_HOME" in done.stderr
