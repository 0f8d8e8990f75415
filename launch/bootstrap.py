#!/usr/bin/env python3
"""Set-up: makes ``.venv`` beside this repository's files and installs everything into it.

Needs nothing but Python's standard library, so it runs before anything is installed: ``python3 launch/bootstrap.py``
(what ``make setup`` and every other make target run first). A finished set-up is recognised in a moment; one that was
interrupted, or a ``.venv`` that was damaged or moved, is completed. Packages come from wherever the user's own pip
configuration says.

Environment: REELKIN_HOROVOD=0 skips Horovod; REELKIN_MPI=0/1 builds it without/with MPI; REELKIN_GPU=0/1 installs the
CPU/GPU packages (default: whether nvidia-smi lists a GPU); REELKIN_DALI=0 leaves DALI out (about 270 MB to download).
What is set once is kept for later runs of the same .venv; the value auto brings the default back. Exit codes: 0 done
(Horovod or DALI may be missing, it is said), 1 something could not be installed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "reelkin-setup.json"
OPTIONS = ("REELKIN_HOROVOD", "REELKIN_MPI", "REELKIN_NCCL", "REELKIN_DALI", "REELKIN_GPU")
KEPT_OPTIONS = VENV / "reelkin-options.json"
CONSTRAINTS = ROOT / "constraints.txt"
# What decides whether an installed .venv is still the right one.
INPUTS = ("setup.py", "constraints.txt", "launch/bootstrap.py", "launch/horovod_build.py", "launch/hvd17.cmake")

OLDEST, NEWEST = (3, 11), (3, 13)
TORCH = "2.13.0"
TORCHVISION_FOR = {"2.11": "0.26.0", "2.12": "0.27.0", "2.13": "0.28.0"}
DALI = "nvidia-dali-cuda130"
DALI_MACHINES = ("x86_64", "aarch64")  # for which it is made, on Linux
DALI_FREE_BYTES = 1 << 30  # 0.7 GB when installed
FREE_BYTES = 3 << 30  # what a CPU build of everything takes on disk, with room to build
MODULES = (
    "torch,torchvision,numpy,av,faiss,pyarrow,safetensors,webdataset,tyro,rich,jinja2,ijson,matplotlib,"
    "imageio_ffmpeg,pytest,mypy,reelkin"
)
STAMPED = ("torch", "torchvision", "horovod", DALI)  # one that changed since makes a finished set-up out of date
DISTRIBUTIONS = (*STAMPED, "faiss-cpu", "faiss-gpu")

# Run by .venv's interpreter: what is there, without importing anything heavy.
PROBE = """
import importlib.metadata as m, importlib.util as u, json, sys
def version(name):
    try:
        return m.version(name)
    except m.PackageNotFoundError:
        return None
names = sys.argv[1].split(",")
missing = [name for name in names if u.find_spec(name) is None]
spec = u.find_spec("reelkin")
print(json.dumps({
    "python": list(sys.version_info[:3]),
    "missing": missing,
    "damaged": [name for name in missing if version(name)],
    "pip": u.find_spec("pip") is not None,
    "root": (spec.origin if spec else None),
    **{name: version(name) for name in sys.argv[2].split(",")},
}))
"""


class SetupError(Exception):
    """Set-up cannot go on; the message says what to do."""


def say(text: str) -> None:
    """One line for the user, at once."""
    print(f"setup: {text}", flush=True)


def has_gpu() -> bool:
    """Whether GPU packages are wanted: REELKIN_GPU when set, else whether nvidia-smi lists a GPU."""
    wanted = os.environ.get("REELKIN_GPU", "")
    if wanted in ("0", "1"):
        return wanted == "1"
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return False
    try:
        listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.returncode == 0 and "GPU" in listed.stdout


def wants_dali(option: str) -> bool:
    """Whether DALI is to be installed: by REELKIN_DALI when that is 0 or 1, else where there is one."""
    if option in ("0", "1"):
        return option == "1"
    return sys.platform == "linux" and platform.machine() in DALI_MACHINES


def kept_options() -> dict:
    """The options that the latest run for this .venv was given."""
    try:
        return dict(json.loads(KEPT_OPTIONS.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def recall_options() -> None:
    """Options that an earlier run was given hold until they are set again: `make demo` must not undo a choice."""
    kept = kept_options()
    for name in OPTIONS:
        value = os.environ.get(name) or kept.get(name, "")
        os.environ[name] = value if value in ("0", "1") else ""


def setup_key(gpu: bool) -> str:
    """Hash of everything that makes a finished set-up out of date."""
    digest = hashlib.sha256()
    for name in INPUTS:
        digest.update((ROOT / name).read_bytes())
    options = [os.environ.get(name, "") for name in OPTIONS[:-1]]
    # With a compiler or MPI installed since, Horovod becomes possible: set-up has to try again.
    tools = [shutil.which(name) is not None for name in ("c++", "g++", "mpicxx", "mpirun")]
    digest.update(json.dumps([str(ROOT), gpu, options, tools]).encode())
    return digest.hexdigest()


def probe_venv() -> dict | None:
    """What .venv holds by its packages' own word, or None when its interpreter does not run."""
    if not PYTHON.exists():
        return None
    command = [str(PYTHON), "-P", "-c", PROBE, MODULES, ",".join(DISTRIBUTIONS)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        return json.loads(done.stdout) if done.returncode == 0 else None
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None


def is_finished(key: str, found: dict | None) -> bool:
    """Whether the stamp belongs to this set-up and the packages it speaks of are still there."""
    if found is None or found["missing"] or found["root"] != str(ROOT / "__init__.py"):
        return False
    try:
        stamp = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    same = all(stamp.get(name) == found[name] for name in ("python", *STAMPED))
    return stamp.get("key") == key and same


# --- the interpreter and the virtual environment ----------------------------------------------------------------------


def version_of(python: str) -> tuple[int, ...] | None:
    """Version of an interpreter, or None when it does not run (a pyenv shim without a version behind it)."""
    code = "import sys; print(*sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        return tuple(int(part) for part in done.stdout.split()) if done.returncode == 0 else None
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None


def choose_python() -> str:
    """The interpreter that runs this file where its version fits, else the first one on PATH that does."""
    if OLDEST <= sys.version_info[:2] <= NEWEST:
        return sys.executable
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        candidate = shutil.which(f"python3.{minor}")
        if candidate and version_of(candidate) == (3, minor):
            return candidate
    here = ".".join(str(part) for part in sys.version_info[:2])
    raise SetupError(
        f"Python 3.{OLDEST[1]} to 3.{NEWEST[1]} is needed; {sys.executable} is {here} and PATH holds no fitting one. "
        "Install one (Debian, Ubuntu: apt-get install python3 python3-venv) or name it: make setup PYTHON=/path/to/it"
    )


def make_venv() -> None:
    """Make .venv anew with venv, or, where the distribution has split that off, with virtualenv or uv if present."""
    python = choose_python()
    if VENV.exists() or VENV.is_symlink():
        say(f"{VENV} is not usable (moved, damaged or of another Python); making it anew")
        if VENV.is_symlink():
            VENV.unlink()
        else:
            shutil.rmtree(VENV)
    version = version_of(python) or ()
    code = "import ensurepip, venv"
    if subprocess.run([python, "-c", code], capture_output=True, check=False).returncode == 0:
        command = [python, "-m", "venv", str(VENV)]
    elif shutil.which("virtualenv"):
        command = ["virtualenv", "--quiet", "--python", python, str(VENV)]
    elif subprocess.run([python, "-m", "virtualenv", "--version"], capture_output=True, check=False).returncode == 0:
        command = [python, "-m", "virtualenv", "--quiet", str(VENV)]
    elif shutil.which("uv"):
        command = ["uv", "venv", "--quiet", "--seed", "--python", python, str(VENV)]
    else:
        package = "python" + ".".join(str(part) for part in version) + "-venv"
        raise SetupError(f"{python} has no ensurepip; on Debian or Ubuntu: apt-get install {package}")
    say(f"making .venv with Python {'.'.join(str(part) for part in version)} ({python})")
    if subprocess.run(command, check=False).returncode != 0:
        raise SetupError(f"{shlex.join(command)} failed, see above")


# --- packages ---------------------------------------------------------------------------------------------------------


def pip(*arguments: str, quiet: bool = True) -> None:
    """Run .venv's pip; its own errors are shown. Raises SetupError when it fails."""
    command = [str(PYTHON), "-m", "pip", *arguments[:1], "--no-input", "--disable-pip-version-check"]
    command += ["--quiet"] if quiet else []
    if not sys.stdout.isatty() and arguments[0] == "install":
        command.append("--progress-bar=off")
    command += arguments[1:]
    # setuptools warns about editable installs of every kind; what pip itself has to say is not affected.
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    if subprocess.run(command, check=False, cwd=ROOT, env=environment).returncode != 0:
        raise SetupError(
            f"pip failed, see above: {shlex.join(command)}\n"
            "Check the network and pip's own settings (pip config list); the next run goes on from here"
        )


def check_space(needed: int) -> None:
    """Raises SetupError when the disk of .venv has less than ``needed`` bytes."""
    free = shutil.disk_usage(ROOT).free
    if free < needed:
        raise SetupError(f"{ROOT} has {free / 1e9:.1f} GB free; about {needed / 1e9:.0f} GB are needed")


def install_torch(found: dict, constraints: Path) -> str:
    """Keep a fitting torch that .venv holds, else install the one of constraints.txt; returns its version."""
    present = found["torch"] or ""
    if minor_of(present) not in TORCHVISION_FOR:
        say(f"torch {TORCH}, from where your pip configuration says. PyPI's build for Linux holds CUDA: a download of")
        say("2.7 GB. Without a GPU, a CPU build (0.2 GB) serves as well: point PIP_FIND_LINKS or PIP_INDEX_URL at one")
        check_space(FREE_BYTES)
        pip("install", "-c", str(constraints), f"torch=={TORCH}", "numpy", quiet=False)
    done = subprocess.run(
        [str(PYTHON), "-P", "-c", "import torch; print(torch.__version__)"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        why = done.stderr.strip()[-2000:]
        raise SetupError(f"torch is installed but does not import:\n{why}\nRemove .venv, then run make setup")
    return done.stdout.strip()


def minor_of(version: str) -> str:
    """``2.13`` of ``2.13.0+cpu``."""
    return ".".join(version.split(".")[:2])


def constraints_for(torch: str | None, folder: Path) -> Path:
    """constraints.txt, with torch and torchvision changed to those that a kept torch asks for."""
    text = CONSTRAINTS.read_text(encoding="utf-8")
    if torch and minor_of(torch) in TORCHVISION_FOR:
        pins = {"torch": torch.split("+")[0], "torchvision": TORCHVISION_FOR[minor_of(torch)]}
        lines = [line for line in text.splitlines() if line.split("==")[0] not in pins]
        text = "\n".join(lines + [f"{name}=={version}" for name, version in pins.items()]) + "\n"
    path = folder / "constraints.txt"
    path.write_text(text, encoding="utf-8")
    return path


def remove_what_is_in_the_way(found: dict, gpu: bool) -> None:
    """Uninstall packages whose files are gone, which pip takes for installed, and the faiss that is not wanted."""
    wanted, other = ("faiss-gpu", "faiss-cpu") if gpu else ("faiss-cpu", "faiss-gpu")
    doomed = list(found["damaged"])
    if found[other]:
        say(f"removing {other}: it owns the same module as {wanted}")
        doomed += [other, wanted]
    elif found[wanted] and "faiss" in found["missing"]:
        doomed.append(wanted)
    if doomed:
        say(f"installing anew: {' '.join(doomed)}")
        pip("uninstall", "-y", *doomed)
    if "torch" in doomed:
        found["torch"] = None


def install_packages(found: dict, gpu: bool) -> None:
    """Everything but Horovod and DALI, in the order in which the packages need one another."""
    with tempfile.TemporaryDirectory(prefix="reelkin-setup-") as folder:
        remove_what_is_in_the_way(found, gpu)
        constraints = constraints_for(found["torch"], Path(folder))
        say("pip, setuptools, wheel")
        pip("install", "-c", str(constraints), "pip", "setuptools", "wheel", "packaging")
        torch = install_torch(found, constraints)
        say(f"torch {torch}; torchvision")
        constraints = constraints_for(torch, Path(folder))
        pip("install", "-c", str(constraints), "numpy", "pillow")
        # torchvision's wheel is a CUDA build; beside a CPU build of torch nothing of it may be replaced.
        pip("install", "-c", str(constraints), "--no-deps", "torchvision")
        # The extra gpu would bring DALI as well, which is a step of its own that may fail.
        faiss = "faiss-gpu" if gpu else "faiss-cpu"
        say(f"reelkin[test], {faiss} and what they need")
        pip("install", "-c", str(constraints), "--no-build-isolation", "-e", ".[test]", faiss)
    link = VENV / "typing" / "reelkin"
    if not link.is_symlink():
        # mypy looks for a folder of the package's name.
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(Path("..", ".."))


def install_horovod() -> None:
    """Build or fetch Horovod for .venv's torch. It may be impossible here; then the reason is shown and recorded."""
    command = [str(PYTHON), "-P", str(ROOT / "launch" / "horovod_build.py"), "--constraints", str(CONSTRAINTS)]
    if subprocess.run(command, check=False).returncode != 0:
        say("goes on without Horovod: `reelkin run` and the demo start their ranks with torchrun")


def install_dali() -> None:
    """Install DALI where it is wanted. PyAV does without it, so a failure is said and set-up goes on."""
    if not wants_dali(os.environ["REELKIN_DALI"]):
        return
    say("DALI (about 270 MB, unless it is there; REELKIN_DALI=0 leaves it out)")
    try:
        check_space(DALI_FREE_BYTES)
        pip("install", "-c", str(CONSTRAINTS), DALI)
    except SetupError as error:
        why = " ".join(str(error).split())
        say(f"goes on without DALI: PyAV decodes. REELKIN_DALI=1 make setup tries again, =0 stops trying ({why})")


def write_stamp(key: str, found: dict, seconds: float) -> None:
    """Written last, by a rename: a set-up without a stamp is unfinished."""
    partial = STAMP.with_name(f".{STAMP.name}.partial-{os.getpid()}")
    kept = {name: found[name] for name in ("python", *STAMPED)}
    text = json.dumps({"key": key, **kept, "seconds": round(seconds, 1)}, indent=2)
    partial.write_text(text + "\n", encoding="utf-8")
    os.replace(partial, STAMP)


def set_up() -> None:
    """Bring .venv to the state that this version of the repository asks for; quick when it is there already."""
    started = time.monotonic()
    recall_options()
    gpu = has_gpu()
    key = setup_key(gpu)
    found = probe_venv()
    if is_finished(key, found):
        return
    STAMP.unlink(missing_ok=True)
    if found is None or not found["pip"] or not OLDEST <= tuple(found["python"][:2]) <= NEWEST:
        make_venv()
        found = probe_venv()
        if found is None:
            raise SetupError(f"{PYTHON} does not run although it was just made")
    KEPT_OPTIONS.write_text(json.dumps({name: os.environ[name] for name in OPTIONS}) + "\n", encoding="utf-8")
    install_packages(found, gpu)
    install_horovod()
    install_dali()
    found = probe_venv()
    if found is None or found["missing"]:
        raise SetupError(f"still missing after installing: {found and found['missing']}; remove .venv and try again")
    seconds = time.monotonic() - started
    write_stamp(key, found, seconds)
    say(f"done in {seconds:.0f} s; `make doctor` shows what works here")


def main() -> int:
    """Returns the exit code."""
    # The folder itself is locked, so that `make test` beside `make demo` waits and no lock file is left behind.
    folder = os.open(ROOT, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another set-up of this folder is running; waiting for it")
            fcntl.flock(folder, fcntl.LOCK_EX)
        set_up()
        return 0
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        print("\nsetup: stopped; the next run goes on from here", file=sys.stderr, flush=True)
        return 75
    finally:
        os.close(folder)


if __name__ == "__main__":
    sys.exit(main())
