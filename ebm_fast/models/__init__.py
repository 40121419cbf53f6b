"""Networks from the literature, as energies (n, *event) -> (n,)."""

from ebm_fast.models.convnet import ConvNetEnergy, thesis_convnet

__all__ = ["ConvNetEnergy", "thesis_convnet"]
