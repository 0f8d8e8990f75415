#!/usr/bin/env python3
"""Installs Horovod for the torch of the interpreter that runs this file, from a cached wheel or by building one.

    python -P launch/horovod_build.py [--constraints constraints.txt]

Horovod 0.28.1 comes from PyPI as source and asks for C++14 where PyTorch needs C++17; ``hvd17.cmake`` beside this file
settles that. Built wheels are kept under ``$XDG_CACHE_HOME/reelkin/wheels`` (default ``~/.cache``) in a folder named
after all that they are tied to: Python, torch's build, options, architecture, C library. After the installation two
ranks are started and compute a sum. The outcome is left in ``reelkin-horovod.json`` of the virtual environment.

Environment: REELKIN_HOROVOD=0 skips it; REELKIN_MPI=0/1 leaves MPI out or insists on it (default: whether mpicxx and
mpirun are on PATH); REELKIN_NCCL=0/1 the same for NCCL (default: a CUDA build of torch and a GPU); HOROVOD_CUDA_HOME
names a CUDA toolkit to use instead of PyPI's, HOROVOD_BUILD_CUDA_CC_LIST the GPUs' compute capabilities (90,100).
The NCCL form has been compiled, but never run on a GPU.
Exit codes: 0 installed and working, 1 not possible here.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
VERSION = "0.28.1"
SOURCE_SHA256 = "92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0"
RECIPE = 1  # part of the cache's key; raise it when the build below changes
STATE = Path(sys.prefix) / "reelkin-horovod.json"
BUILD_SECONDS = 3600
CHECK_SECONDS = 120


class CannotBuildError(Exception):
    """Horovod cannot be had here. ``fix`` says what to install."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


@dataclass(frozen=True)
class Plan:
    """What a wheel is tied to."""

    python: str
    torch: str
    cuda: str
    mpi: bool
    nccl: bool
    compute_capabilities: str
    machine: str
    libc: str
    mpi_version: str

    @property
    def key(self) -> str:
        """Folder name in the cache: readable, with a hash of everything."""
        options = "+".join(["gloo"] + ["mpi"] * self.mpi + ["nccl"] * self.nccl)
        recipe = [RECIPE, (HERE / "hvd17.cmake").read_text(encoding="utf-8"), asdict(self)]
        digest = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]
        return f"horovod-{VERSION}-{self.python}-torch{self.torch}-{options}-{self.machine}-{digest}"


def say(text: str) -> None:
    """One line for the user, at once."""
    print(f"horovod: {text}", flush=True)


def _switch(name: str, default: bool) -> bool:
    value = os.environ.get(name, "")
    return value == "1" if value in ("0", "1") else default


def _output(*command: str, seconds: float = 60) -> str:
    """What a command prints, or nothing when it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def make_plan() -> Plan:
    """Read this machine, its torch and the options. Raises CannotBuildError for what can never work."""
    if os.environ.get("REELKIN_HOROVOD") == "0":
        raise CannotBuildError("skipped by REELKIN_HOROVOD=0", "make setup without REELKIN_HOROVOD=0")
    if sys.platform != "linux":
        raise CannotBuildError(f"Horovod is built on Linux only, this is {sys.platform}", "use --launcher torch")
    import torch

    cuda = torch.version.cuda or ""
    listed = _output("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader") if cuda else ""
    capabilities = sorted({line.strip().replace(".", "") for line in listed.splitlines() if "." in line})
    nccl = bool(cuda) and _switch("REELKIN_NCCL", bool(capabilities))
    mpi = _switch("REELKIN_MPI", bool(shutil.which("mpicxx") and shutil.which("mpirun")))
    if mpi and not shutil.which("mpicxx"):
        raise CannotBuildError("REELKIN_MPI=1, but mpicxx is missing", "apt-get install libopenmpi-dev openmpi-bin")
    return Plan(
        python=f"cp{sys.version_info[0]}{sys.version_info[1]}",
        torch=torch.__version__,
        cuda=cuda,
        mpi=mpi,
        nccl=nccl,
        compute_capabilities=(os.environ.get("HOROVOD_BUILD_CUDA_CC_LIST") or ",".join(capabilities)) if nccl else "",
        machine=platform.machine(),
        libc="".join(platform.libc_ver()),
        mpi_version=_output("mpirun", "--version").splitlines()[0] if mpi and _output("mpirun", "--version") else "",
    )


# --- the build --------------------------------------------------------------------------------------------------------


def check_tools() -> None:
    """Raises CannotBuildError with what to install when the compiler or Python's headers are missing."""
    missing = []
    if not (os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")):
        missing.append("g++")
    if not shutil.which("make"):
        missing.append("make")
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        missing.append(f"python{sys.version_info[0]}.{sys.version_info[1]}-dev")
    if missing:
        names = " ".join(missing)
        raise CannotBuildError(f"building it needs {names}", f"apt-get install {names}, then make setup")


def pip(*arguments: str) -> None:
    """Run this interpreter's pip quietly. Raises CannotBuildError when it fails."""
    command = [sys.executable, "-m", "pip", arguments[0], "--quiet", "--no-input", "--disable-pip-version-check"]
    if subprocess.run([*command, *arguments[1:]], check=False).returncode != 0:
        raise CannotBuildError(f"pip {arguments[0]} failed, see above", "check the network and `pip config list`")


def find_cmake(tools: Path) -> str:
    """A cmake of 3.21 or newer (toolchain file from the environment): the machine's own, else pip's."""
    found = re.search(r"(\d+)\.(\d+)", _output("cmake", "--version"))
    if found and (int(found[1]), int(found[2])) >= (3, 21):
        return shutil.which("cmake") or "cmake"
    say("cmake of 3.21 or newer is missing; taking it from pip for the build")
    pip("install", "--target", str(tools), "--upgrade", "cmake")
    return str(tools / "cmake" / "data" / "bin" / "cmake")


def cuda_tree(cuda: str, tools: Path) -> Path:
    """A CUDA toolkit that is just enough to compile: nvcc from pip, headers and libraries that torch brought.

    Raises:
        CannotBuildError: torch was built for a CUDA whose packages on PyPI are laid out otherwise.
    """
    major, minor = cuda.split(".")[:2]
    brought = Path(sysconfig.get_path("purelib")) / "nvidia" / f"cu{major}"
    if not (brought / "include").is_dir():
        raise CannotBuildError(
            f"torch is built for CUDA {cuda} and brings no headers", "set HOROVOD_CUDA_HOME to that version's toolkit"
        )
    names = ("nvidia-cuda-nvcc", "nvidia-cuda-crt", "nvidia-cuda-cccl", "nvidia-nvvm")
    pip("install", "--target", str(tools), "--no-deps", *(f"{name}=={major}.{minor}.*" for name in names))
    tree = tools / "nvidia" / f"cu{major}"
    for folder in ("include", "lib"):
        (tree / folder).mkdir(exist_ok=True)
        for file in (brought / folder).iterdir():
            if not (tree / folder / file.name).exists():
                (tree / folder / file.name).symlink_to(file)
    # The names that linkers look for; the packages hold versioned files only.
    (tree / "lib64").symlink_to("lib")
    if not (tree / "lib" / "libcudart.so").exists():
        (tree / "lib" / "libcudart.so").symlink_to(f"libcudart.so.{major}")
    return tree


def cuda_environment(plan: Plan, tools: Path) -> dict[str, str]:
    """Variables for a CUDA build of torch. Horovod's CMake adds CUDA by itself whenever torch has it."""
    if os.environ.get("HOROVOD_CUDA_HOME"):
        tree = Path(os.environ["HOROVOD_CUDA_HOME"])
    else:
        tree = cuda_tree(plan.cuda, tools)
    variables = {
        "HOROVOD_CUDA_HOME": str(tree),
        "CUDACXX": os.environ.get("CUDACXX") or str(tree / "bin" / "nvcc"),
        "CUDAToolkit_ROOT": str(tree),
        "CUDA_HOME": str(tree),  # torch's own build helper, which Horovod's CMake asks for libraries
        "CMAKE_CUDA_RUNTIME_LIBRARY": "Shared",
    }
    if plan.nccl:
        home = Path(sysconfig.get_path("purelib")) / "nvidia" / "nccl"
        links = tools / "nccl"
        links.mkdir()
        (links / "libnccl.so").symlink_to(home / "lib" / "libnccl.so.2")
        variables |= {
            "HOROVOD_GPU_OPERATIONS": "NCCL",
            "HOROVOD_NCCL_INCLUDE": str(home / "include"),
            "HOROVOD_NCCL_LIB": str(links),
            "HOROVOD_NCCL_LINK": "SHARED",
        }
        if plan.compute_capabilities:
            variables["HOROVOD_BUILD_CUDA_CC_LIST"] = plan.compute_capabilities
    return variables


def _jobs() -> int:
    """Compilers at once: one a core, and 2 GB of free memory each."""
    found = re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text(encoding="utf-8"))
    gigabytes = int(found[1]) / 1e6 if found else 4.0
    return max(1, min(len(os.sched_getaffinity(0)), 16, int(gigabytes / 2)))


def build_environment(plan: Plan, tools: Path) -> dict[str, str]:
    """The recipe, as environment variables: the only way into Horovod's build."""
    variables = {
        "CMAKE_TOOLCHAIN_FILE": str(HERE / "hvd17.cmake"),
        "CMAKE_POLICY_VERSION_MINIMUM": "3.5",  # for the cmake_minimum_required of its third-party parts
        "HOROVOD_CMAKE": find_cmake(tools),
        "LDFLAGS": f"{os.environ.get('LDFLAGS', '')} -s".strip(),  # no debug information: 1 MB instead of 18 MB
        "MAKEFLAGS": f"-j{_jobs()}",
        "HOROVOD_WITH_PYTORCH": "1",
        "HOROVOD_WITH_GLOO": "1",
        "HOROVOD_WITHOUT_TENSORFLOW": "1",
        "HOROVOD_WITHOUT_MXNET": "1",
        ("HOROVOD_WITH_MPI" if plan.mpi else "HOROVOD_WITHOUT_MPI"): "1",
    }
    if plan.cuda:
        variables |= cuda_environment(plan, tools)
    # A user's own settings for another build must not contradict these.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HOROVOD_")}
    return inherited | variables


def build_wheel(plan: Plan, folder: Path, log: Path) -> Path:
    """Build into ``folder``; a line every half minute. Raises CannotBuildError with the log's end when it fails."""
    check_tools()
    with tempfile.TemporaryDirectory(prefix="reelkin-horovod-") as name:
        tools = Path(name) / "tools"
        tools.mkdir()
        environment = build_environment(plan, tools)
        requirement = Path(name) / "requirement.txt"
        requirement.write_text(f"horovod=={VERSION} --hash=sha256:{SOURCE_SHA256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-cache-dir"]
        command += ["--no-binary", "horovod", "--no-input", "-v", "-w", str(folder), "-r", str(requirement)]
        say(f"building {VERSION} for torch {plan.torch}, {environment['MAKEFLAGS'][2:]} files at once, log in {log}")
        started = time.monotonic()
        with open(log, "wb") as output:
            process = subprocess.Popen(
                command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                _wait(process, started)
            finally:
                if process.poll() is None:  # time is up, or Ctrl-C: the compilers go too
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
    wheels = list(folder.glob("horovod-*.whl"))
    if process.returncode != 0 or not wheels:
        text = log.read_text(encoding="utf-8", errors="replace")
        errors = [line for line in text.splitlines() if "error" in line.lower()][:8]
        print("\n".join(line[:300] for line in errors), file=sys.stderr, flush=True)
        raise CannotBuildError(f"the build failed, see {log}", "the first errors are above; REELKIN_HOROVOD=0 skips it")
    say(f"built in {time.monotonic() - started:.0f} s")
    return wheels[0]


def _wait(process: subprocess.Popen[bytes], started: float) -> None:
    while time.monotonic() - started < BUILD_SECONDS:
        try:
            process.wait(timeout=30)
            return
        except subprocess.TimeoutExpired:
            say(f"still building after {time.monotonic() - started:.0f} s (usually 2 to 8 minutes)")


# --- the cache --------------------------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Where built wheels are kept, outside of any clone; inside the virtual environment when home is not writable."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(home) / "reelkin" / "wheels"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        folder = Path(sys.prefix) / "reelkin-wheels"
        folder.mkdir(exist_ok=True)
        return folder


def _whole(wheel: Path) -> bool:
    try:
        with zipfile.ZipFile(wheel) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("the same wheel is being built by another set-up; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def get_wheel(plan: Plan) -> Path:
    """The wheel for ``plan``, built at most once on this machine; it appears in the cache whole or not at all."""
    cache = cache_folder()
    home = cache / plan.key
    with _locked(cache / f"{plan.key}.lock"):
        for wheel in home.glob("horovod-*.whl"):
            if _whole(wheel):
                say(f"taking the wheel built before: {wheel}")
                return wheel
            wheel.unlink()
        home.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=cache) as building:
            wheel = build_wheel(plan, Path(building), home / "build.log")
            (home / "plan.json").write_text(json.dumps(asdict(plan), indent=2) + "\n", encoding="utf-8")
            os.replace(wheel, home / wheel.name)
        return home / wheel.name


# --- installation -----------------------------------------------------------------------------------------------------


def two_ranks_work() -> str:
    """Start two ranks that add up their ranks' numbers. Returns "" when the sum is right, else what was seen."""
    command = [sys.executable, "-P", "-m", "reelkin.launch.rank_check", "--launcher", "horovod"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CHECK_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer within {CHECK_SECONDS} s"
    return "" if done.returncode == 0 else (done.stdout + done.stderr).strip()[-1000:]


def install(constraints: Path | None) -> dict[str, object]:
    """Install and check; returns the outcome as it is recorded. Raises CannotBuildError."""
    plan = make_plan()
    try:
        recorded = json.loads(STATE.read_text(encoding="utf-8"))
        installed = importlib.metadata.version("horovod") == VERSION
    except (OSError, ValueError, importlib.metadata.PackageNotFoundError):
        recorded, installed = {}, False
    if not (installed and recorded.get("key") == plan.key and recorded.get("ok")):
        wheel = get_wheel(plan)
        limits = ["-c", str(constraints)] if constraints else []
        pip("install", "--no-deps", "--force-reinstall", str(wheel))
        pip("install", *limits, f"horovod=={VERSION}", "setuptools")  # what it needs at run time
    trouble = two_ranks_work()
    if trouble:
        raise CannotBuildError(f"installed, but two ranks do not start:\n{trouble}", "reelkin doctor says more")
    return {"ok": True, "key": plan.key, **asdict(plan)}


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description="Install Horovod for this interpreter's torch")
    parser.add_argument("--constraints", type=Path, help="pip constraints for what Horovod needs at run time")
    arguments = parser.parse_args()
    try:
        outcome = install(arguments.constraints)
    except CannotBuildError as error:
        outcome = {"ok": False, "reason": str(error), "fix": error.fix}
        print(f"horovod: not installed: {error}\nhorovod: to have it: {error.fix}", file=sys.stderr, flush=True)
    STATE.write_text(json.dumps(outcome, indent=2) + "\n", encoding="utf-8")
    return 0 if outcome["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
