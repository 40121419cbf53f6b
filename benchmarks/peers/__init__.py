"""The same targets and the same samplers in BlackJAX and NumPyro, written as their documentation would have it, and mended."""

import os

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX would take most of a GPU's memory, and torch needs some
