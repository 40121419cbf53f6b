"""Proofs of correctness for samplers, the project's own and yours: tests of stated false-alarm rate and stated power.

Every function returns a `TestResult`; `.check()` raises AssertionError with a readable message where the test failed.
"""

from .discrete import Enumeration, chi_square_test, enumerate_states, state_index
from .geweke import geweke_test
from .invariance import invariance_test, reversibility_test
from .kolmogorov import ks_test
from .moments import mcse_z_test
from .result import Comparison, TestResult

__all__ = [
    "Comparison",
    "Enumeration",
    "TestResult",
    "chi_square_test",
    "enumerate_states",
    "geweke_test",
    "invariance_test",
    "ks_test",
    "mcse_z_test",
    "reversibility_test",
    "state_index",
]
