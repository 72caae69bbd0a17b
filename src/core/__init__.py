"""The mathematics of the paper: pure functions of tensors that import nothing of the project."""
