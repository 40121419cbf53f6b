"""How long the extension takes to build from nothing with CUDA for one architecture: wall and CPU seconds, in all and by file.

    python benchmarks/build_time.py [--arch 90] [--jobs 2]         appends a row to results/build-*.jsonl, prints the table

The flags, the order and the link are the build's own: CMake and Ninja in a throw-away folder, first the objects of
csrc/cuda/*.cu, then the rest (C++ for every instruction set, and the link). Each compiler is started by this file, which takes
its CPU seconds (user and system, of all its children); a file's seconds lie beside those of the other job.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LAUNCH = "--launch"  # build_time.py --launch LOG compiler arguments ...


def launch(log: str, command: list[str]) -> int:
    """Run a compiler and append what it took to the log."""
    begin = time.perf_counter()
    _, status, used = os.wait4(os.posix_spawnp(command[0], command, os.environ), 0)
    source = next(c for c in command if c.endswith((".cu", ".cpp")))
    row = {"file": Path(source).name, "wall": time.perf_counter() - begin, "cpu": used.ru_utime + used.ru_stime}
    with open(log, "a") as file:
        file.write(json.dumps(row) + "\n")
    return os.waitstatus_to_exitcode(status)


def program(name: str) -> str:
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        raise SystemExit(f"needs {name}: pip install {name}")
    return found


def nvcc() -> str:
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    found = shutil.which("nvcc") or shutil.which("nvcc", path=f"{home}/bin")
    if found is None:
        raise SystemExit("needs nvcc on PATH or in CUDA_HOME")
    return found


def timed(*command: str) -> float:
    begin = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:4])} ... failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return time.perf_counter() - begin


def measure(root: Path, arch: str, jobs: int) -> dict[str, Any]:
    """Seconds of the whole build, and of each file."""
    import pybind11

    cmake, ninja, compiler = program("cmake"), program("ninja"), nvcc()
    with tempfile.TemporaryDirectory() as folder:
        log = f"{folder}/log.jsonl"
        launcher = f"{sys.executable};{Path(__file__).resolve()};{LAUNCH};{log}"
        timed(
            cmake, "-S", str(root), "-B", folder, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}",
            f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            "-DEBM_FAST_WITH_CUDA=ON", f"-DCMAKE_CUDA_COMPILER={compiler}", f"-DEBM_FAST_CUDA_ARCHS={arch}",
            f"-DCMAKE_CUDA_COMPILER_LAUNCHER={launcher}", f"-DCMAKE_CXX_COMPILER_LAUNCHER={launcher}",
        )  # fmt: skip
        commands = json.loads(Path(folder, "compile_commands.json").read_text())
        objects = [os.path.relpath(c["output"], folder) for c in commands if c["file"].endswith(".cu")]
        build = [ninja, "-C", folder, "-j", str(jobs)]
        cuda, rest = timed(*build, *objects), timed(*build)
        files = [json.loads(line) for line in Path(log).read_text().splitlines()]
    if len(files) != len(commands):
        raise SystemExit(f"{len(commands)} files should have been compiled, {len(files)} were")
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    return {
        "case": f"sm_{arch}, {jobs} jobs",
        "median": cuda + rest,
        "cuda_seconds": cuda,
        "rest_seconds": rest,
        "cuda_cpu_seconds": sum(f["cpu"] for f in files if f["file"].endswith(".cu")),
        "rest_cpu_seconds": sum(f["cpu"] for f in files if f["file"].endswith(".cpp")),
        "files": {f["file"]: {"wall": round(f["wall"], 2), "cpu": round(f["cpu"], 2)} for f in files},
        "jobs": jobs,
        "nvcc": version.split("release ")[1].split(",")[0],
    }


def table(row: dict[str, Any], most: int = 8) -> str:
    """Markdown: the sums, then the `most` files that take most CPU seconds."""
    lines = [f"| {row['case']}, nvcc {row['nvcc']} | wall, s | CPU, s |", "|---|---:|---:|"]
    sums = [f"| **everything** | {row['median']:.0f} | {row['cuda_cpu_seconds'] + row['rest_cpu_seconds']:.0f} |"]
    for what, told in (("cuda", "CUDA files"), ("rest", "C++ files, and the link")):
        count = sum(f.endswith(".cu") == (what == "cuda") for f in row["files"])
        sums.append(f"| {count} {told} | {row[f'{what}_seconds']:.0f} | {row[f'{what}_cpu_seconds']:.0f} |")
    files = sorted(row["files"].items(), key=lambda item: -item[1]["cpu"])[:most]
    return "\n".join([*lines, *sums, *(f"| `{name}` | {f['wall']:.0f} | {f['cpu']:.0f} |" for name, f in files)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="90", help="compute capability without the dot (default: 90)")
    parser.add_argument("--jobs", type=int, default=2, help="files compiled at a time (default: 2)")
    parser.add_argument("--results", type=Path, help="folder for the row (default: benchmarks/results)")
    options = parser.parse_args()
    import harness

    row = {"name": "build", **measure(harness.ROOT, options.arch, options.jobs), **harness.facts("cpu", harness.present_commit())}
    harness.write_row(options.results or harness.ROOT / "benchmarks" / "results", "build", row)
    print(table(row, len(row["files"])))


if __name__ == "__main__":
    if sys.argv[1:2] == [LAUNCH]:
        sys.exit(launch(sys.argv[2], sys.argv[3:]))
    main()
