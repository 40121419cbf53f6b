"""Every op in plain PyTorch, short and obvious: the specification that all other backends are tested against."""
