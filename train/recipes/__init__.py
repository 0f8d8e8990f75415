"""Recipes: each names its parts, its command, the hardware, and the result to expect."""
