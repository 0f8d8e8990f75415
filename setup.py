"""Packaging of Reelkin: the repository's root folder is the Python package ``reelkin``."""

from __future__ import annotations

from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

STAGES = ["core", "shards", "extract", "train", "search", "evaluate", "launch"]

RUNTIME = [
    "torch>=2.11,<2.14",
    "torchvision>=0.26,<0.29",  # 0.26 goes with torch 2.11, 0.27 with 2.12, 0.28 with 2.13; pip holds them together
    "numpy>=2.0",
    "pillow>=11",
    "av>=18",  # earlier ones scale with flags of another name
    "safetensors>=0.5",
    "pyarrow>=18",
    "tyro>=1.0",
    "rich>=13.9",
    "jinja2>=3.1",
    "matplotlib>=3.9",  # the plots of an evaluation, as SVG and PNG for papers and slides
    "ijson>=3.3",  # similarity files of gigabytes, read as a stream
]

# Made for Linux on two kinds of machine; elsewhere PyAV decodes alone.
DALI = "nvidia-dali-cuda130>=2.2; sys_platform == 'linux' and platform_machine in 'x86_64 aarch64'"

EXTRAS = {
    # cpu and gpu exclude each other: both faiss distributions own the module ``faiss``. pip cannot say so;
    # launch/bootstrap.py removes one before it installs the other, and ``reelkin doctor`` refuses both.
    "cpu": ["faiss-cpu>=1.10"],
    "gpu": ["faiss-gpu>=1.14.3", DALI],
    "dali": [DALI],
    # Horovod comes as source only and needs the recipe in launch/horovod_build.py; setuptools is what it runs on
    # from Python 3.12 on (it imports distutils).
    "horovod": ["horovod==0.28.1", "setuptools>=68"],
    # Features of other projects come as HDF5; networks beyond torchvision's are timm's.
    "hdf5": ["h5py>=3.11"],
    "timm": ["timm>=1.0"],
    # Where training's metrics may go too (--log-to).
    "tensorboard": ["tensorboard>=2.18"],
    "wandb": ["wandb>=0.19"],
    "test": [
        "pytest>=8",
        "pytest-timeout>=2.3",
        "hypothesis>=6.100",
        "scikit-learn>=1.5",
        "scipy>=1.14",
        "webdataset>=1.0",  # the tests read shards with it, as others may
        "imageio-ffmpeg>=0.6",  # an ffmpeg of its own build, the tests' second opinion on what can be decoded
        "opencv-python-headless>=4.10",  # the published frame picking and scaling, to compare with
        "h5py>=3.11",
        "timm>=1.0",
        "tensorboard>=2.18",
        "ruff>=0.9",
        "mypy>=1.14",
        "import-linter>=2.1",
    ],
}


class BuildPy(build_py):
    """Leaves out the files of the root folder and of launch/ that only a clone of the repository can use."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        left_out = {("reelkin", "setup"), ("reelkin.launch", "bootstrap")}
        return [module for module in super().find_package_modules(package, package_dir) if module[:2] not in left_out]


packages = find_packages(".", include=[pattern for name in STAGES for pattern in (name, f"{name}.*")])

setup(
    name="reelkin",
    version="0.1.0",
    description="Finds every video that shows what a given video shows: shards, features, training, index, search",
    long_description=Path("README.md").read_text(encoding="utf-8") if Path("README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    package_dir={"reelkin": "."},
    packages=["reelkin", *(f"reelkin.{name}" for name in packages)],
    package_data={
        "reelkin.launch": ["*.cmake"],
        "reelkin.evaluate.reporting": ["*.j2"],
        "reelkin.evaluate.published": ["files/*"],
    },
    python_requires=">=3.11,<3.14",
    install_requires=RUNTIME,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["reelkin=reelkin.launch.cli:main"]},
    cmdclass={"build_py": BuildPy},
)
