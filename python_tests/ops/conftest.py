"""Every backend that can run on the device under test, and every instruction set of the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ebm_fast.ops.backend import native, why_not

FAST = ("cpu", "avx2", "baseline", "cuda", "triton")


@pytest.fixture(params=FAST)
def backend(request: pytest.FixtureRequest, device: str) -> Iterator[str]:
    """A compiled backend; the CPU's appears once per instruction set."""
    name = request.param
    isa = {"avx2": "avx2", "baseline": "baseline"}.get(name)
    backend = "cpu" if isa else name
    if (backend == "cpu") != (device == "cpu"):
        pytest.skip(f"backend {backend} does not run on {device}")
    if why_not(backend):
        pytest.skip(why_not(backend))
    if isa is None:
        yield backend
        return
    module = native()
    assert module is not None
    before = module.current_isa()
    if isa not in module.available_isas() or isa == before:
        pytest.skip(f"{isa} is missing here or is what 'cpu' tests already")
    module.force_isa(isa)
    yield backend
    module.force_isa(before)
