"""The same targets and the same samplers in BlackJAX and NumPyro, written as their documentation would have it, and mended."""
