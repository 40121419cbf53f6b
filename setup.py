"""Builds `ebm_fast._C` with CMake. Everything else is in pyproject.toml.

Environment: EBM_FAST_CUDA=auto|on|off (auto: CUDA is compiled where nvcc and a GPU are found),
EBM_FAST_CUDA_ARCHS="80;90;100" (default: the GPUs found under auto, all three under on).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


def find_nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    return shutil.which("nvcc") or shutil.which("nvcc", path=os.path.join(home, "bin"))


def gpu_architectures() -> list[str]:
    """Compute capabilities of the GPUs of this machine, such as ["90"]; empty where there is none."""
    try:
        found = subprocess.run(
            ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=60, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return []
    return sorted({line.strip().replace(".", "") for line in found.splitlines() if re.fullmatch(r"\d+\.\d", line.strip())})


def cuda_options() -> list[str]:
    wish = os.environ.get("EBM_FAST_CUDA", "auto")
    if wish not in ("auto", "on", "off"):
        raise SystemExit(f"EBM_FAST_CUDA must be auto, on or off, got {wish!r}")
    nvcc, gpus = find_nvcc(), gpu_architectures() if wish == "auto" else []
    if wish == "on" and nvcc is None:
        raise SystemExit("EBM_FAST_CUDA=on needs nvcc: put it on PATH or set CUDA_HOME")
    if wish == "off" or nvcc is None or (wish == "auto" and not gpus):
        return ["-DEBM_FAST_WITH_CUDA=OFF"]
    architectures = os.environ.get("EBM_FAST_CUDA_ARCHS") or (";".join(gpus) if gpus else "80;90;100")
    return [
        "-DEBM_FAST_WITH_CUDA=ON",
        f"-DCMAKE_CUDA_COMPILER={nvcc}",
        f"-DEBM_FAST_CUDA_ARCHS={architectures}",
    ]


def program(name: str) -> str | None:
    """The tool beside this interpreter (an isolated build environment has it there), or on PATH."""
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


def forget_stale_cache(build: Path, generator: str) -> None:
    """Drop a CMake cache that names another generator, another folder, or tools that are gone.

    pip builds in a throw-away environment; the cache left by an editable install then points into a deleted folder. Objects
    stay: ninja's log knows which of them another compiler or other flags have outdated.
    """
    cache = build / "CMakeCache.txt"
    if not cache.is_file():
        return
    entries = dict(re.findall(r"^([A-Za-z_0-9]+):[A-Z]+=(.*)$", cache.read_text(), re.M))
    if entries.get("CMAKE_GENERATOR") != generator or entries.get("CMAKE_HOME_DIRECTORY") != str(ROOT):
        shutil.rmtree(build)
        build.mkdir()
        return
    tools = [entries.get(k, "") for k in ("CMAKE_COMMAND", "CMAKE_MAKE_PROGRAM", "CMAKE_CXX_COMPILER", "pybind11_DIR")]
    if any(tool and not Path(tool).exists() for tool in tools):
        cache.unlink()
        for facts in (build / "CMakeFiles").glob("[0-9]*"):  # what an older CMake or compiler said about itself
            shutil.rmtree(facts)


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        import pybind11

        cmake = program("cmake")
        if cmake is None:
            raise SystemExit("building ebm_fast needs cmake >= 3.24: pip install cmake")
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        tag = sysconfig.get_config_var("SOABI") or f"py{sys.version_info.major}{sys.version_info.minor}"
        build = ROOT / "build" / f"cmake-{tag}"
        build.mkdir(parents=True, exist_ok=True)
        ninja = program("ninja")
        generator = "Ninja" if ninja else "Unix Makefiles"
        forget_stale_cache(build, generator)
        configure = [
            cmake, "-S", str(ROOT), "-B", str(build), "-G", generator,
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={build / 'out'}",
            *([f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []),
            *cuda_options(),
        ]  # fmt: skip
        subprocess.run(configure, check=True)
        jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL") or str(os.cpu_count() or 1)
        subprocess.run([cmake, "--build", str(build), "--parallel", jobs], check=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        built = build / "out" / target.name
        temporary = target.with_suffix(f".{os.getpid()}.tmp")   # a running process keeps the old file it has mapped
        shutil.copy2(built, temporary)
        os.replace(temporary, target)


def packages() -> list[str]:
    ours = (p.parent.relative_to(ROOT).parts for p in (ROOT / "ebm_fast").rglob("__init__.py"))
    return ["ebm_fast.kernels", *sorted(map(".".join, ours))]


setup(
    packages=packages(),
    package_dir={"ebm_fast": "ebm_fast", "ebm_fast.kernels": "kernels"},
    package_data={"ebm_fast": ["py.typed"]},
    ext_modules=[Extension("ebm_fast._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
