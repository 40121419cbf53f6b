"""What a warm-up learns has no Triton form: it sums over all chains, which no block sees. Plain PyTorch does it."""

from ..reference.adapt import adapt_

__all__ = ["adapt_"]
