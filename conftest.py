"""What python_tests/ and benchmarks/ share: the device under test, optional real data, seeds and threads."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent
MOST_THREADS = 8  # small tensors on dozens of threads spend their time waking them


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", choices=("cpu", "cuda"), default="cpu", help="where tests and benchmarks run (default: cpu)")
    parser.addoption("--only-device", action="store_true", help="only tests that depend on it: with `device`, or marked cuda")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--device") == "cuda" and not torch.cuda.is_available():
        raise pytest.UsageError("--device cuda: torch sees no CUDA device")
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(1, min(torch.get_num_threads() // workers, MOST_THREADS)))


def pytest_report_header(config: pytest.Config) -> str:
    from ebm_fast.ops.backend import native

    module = native()
    built = f"_C ({module.current_isa()}; CUDA {module.cuda_architectures or 'not built'})" if module else "_C not built"
    return f"ebm_fast: {built}, torch {torch.__version__}, {torch.get_num_threads()} threads, {config.getoption('--device')}"


LONG = ("packaging", "kernels")  # they wait for compilers: dealt out first


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests go to one process, since they share fixtures, and all of packaging, which share one build."""
    from xdist.scheduler import LoadFileScheduling

    class ByBuild(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "packaging" if "/packaging/" in nodeid else super()._split_scope(nodeid)

    return ByBuild(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: not any(f"/{folder}/" in item.nodeid for folder in LONG))
    if config.getoption("--only-device"):
        dropped = [item for item in items if not _depends_on_the_device(item)]
        items[:] = [item for item in items if _depends_on_the_device(item)]
        config.hook.pytest_deselected(items=dropped)
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def _depends_on_the_device(item: pytest.Item) -> bool:
    return item.get_closest_marker("cuda") is not None or "device" in getattr(item, "fixturenames", ())


@pytest.fixture
def device(request: pytest.FixtureRequest) -> str:
    return request.config.getoption("--device")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of real data sets (mnist/, fashion_mnist/, ...): EBM_FAST_DATA, or ../shared/data beside the repository."""
    wished = os.environ.get("EBM_FAST_DATA")
    root = Path(wished) if wished else ROOT.parent / "shared" / "data"
    if not root.is_dir():
        if wished:
            pytest.fail(f"EBM_FAST_DATA={wished} is no folder")
        pytest.skip("no real data sets here; EBM_FAST_DATA may name their folder")
    return root


@pytest.fixture(autouse=True)
def _same_start() -> Iterator[None]:
    """Every test starts from the same generators, whatever ran before, and leaves the number of threads as it was."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
