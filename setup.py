"""Packaging of Reelkin: the repository's root folder is the Python package ``reelkin``."""

from setuptools import setup

PACKAGES = ["core", "core.engine", "shards", "extract", "train", "search", "evaluate", "launch"]

setup(
    name="reelkin",
    version="0.1.0",
    package_dir={"reelkin": "."},
    packages=["reelkin", *(f"reelkin.{name}" for name in PACKAGES)],
    python_requires=">=3.11,<3.13",
)
