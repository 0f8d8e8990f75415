"""A training run: the loop, its folder, validation."""
