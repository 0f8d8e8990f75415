"""``reelkin doctor``: what works on this machine, what is missing, and the fix for each.

Every library is tried in a process of its own: a broken one can end the process that imports it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from ..core.config import command
from ..core.errors import ExitCode
from .rank_check import ranks_start
from .run_ranks import horovod_trouble, read_state

OK, NOTE, BAD = "ok", "note", "missing"
AGREE = "start and agree"
PROBE_SECONDS = 60.0
PYTHON_RANGE = ((3, 11), (3, 13))
TORCH_RANGE = ((2, 11), (2, 13))
SETUP = "make setup (in a clone), or see its messages"


@dataclass(frozen=True)
class Finding:
    """One line of the report: ``state`` is ok, note (works, but...) or missing; ``fix`` is empty when ok."""

    name: str
    state: str
    found: str
    fix: str = ""


def probe(code: str, seconds: float = PROBE_SECONDS) -> tuple[dict, str]:
    """Run ``code``, which prints one JSON object, in a fresh interpreter.

    Returns:
        (the object, ""), or ({}, the last line of what went wrong).
    """
    words = [sys.executable, "-P", "-c", code]
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return {}, f"no answer within {seconds:.0f} s"
    if done.returncode == 0:
        try:
            return dict(json.loads(done.stdout.strip().splitlines()[-1])), ""
        except (ValueError, IndexError):
            pass
    lines = (done.stderr.strip() or done.stdout.strip() or f"ended with exit code {done.returncode}").splitlines()
    return {}, lines[-1][:300]


# --- one function a line ----------------------------------------------------------------------------------------------


def check_python() -> Finding:
    """The interpreter's version."""
    version = sys.version_info[:2]
    text = f"{sys.version.split()[0]}, {sys.executable}"
    if PYTHON_RANGE[0] <= version <= PYTHON_RANGE[1]:
        return Finding("Python", OK, text)
    return Finding("Python", BAD, text, "use Python 3.11, 3.12 or 3.13")


def check_torch() -> Finding:
    """PyTorch's version, its build, and the GPUs that it sees."""
    found, trouble = probe(
        "import json, torch\n"
        "gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]\n"
        "print(json.dumps({'version': torch.__version__, 'cuda': torch.version.cuda, 'gpus': gpus}))"
    )
    if trouble:
        return Finding("torch", BAD, trouble, SETUP)
    build = f"CUDA {found['cuda']}" if found["cuda"] else "CPU build"
    gpus = ", ".join(found["gpus"]) or "no GPU"
    text = f"{found['version']}, {build}, {gpus}"
    minor = tuple(int(part) for part in found["version"].split(".")[:2])
    if not TORCH_RANGE[0] <= minor <= TORCH_RANGE[1]:
        return Finding("torch", NOTE, text, "2.11 to 2.13 are tried; pip install -c constraints.txt torch")
    if not found["cuda"] and shutil.which("nvidia-smi"):
        return Finding(
            "torch", NOTE, text, "nvidia-smi is here: for a GPU, install a CUDA build of torch, then make setup"
        )
    return Finding("torch", OK, text)


def check_torchvision() -> Finding:
    """torchvision, imported as the frame encoders import it."""
    found, trouble = probe(
        "import json\n"
        "from reelkin.extract.encoders.torchvision_import import import_torchvision\n"
        "print(json.dumps({'version': import_torchvision().__version__}))"
    )
    if trouble:
        return Finding("torchvision", NOTE, trouble, "TorchScript encoders work without it; else: " + SETUP)
    return Finding("torchvision", OK, found["version"])


def check_horovod() -> Finding:
    """Horovod's version and what it was built with."""
    trouble = horovod_trouble()
    if trouble:
        return Finding("Horovod", NOTE, trouble, "torchrun is used instead; to have Horovod: " + _horovod_fix())
    found, trouble = probe(
        "import json, horovod, horovod.torch as hvd\n"
        "print(json.dumps({'version': horovod.__version__, 'gloo': bool(hvd.gloo_built()),"
        " 'MPI': bool(hvd.mpi_built()), 'NCCL': bool(hvd.nccl_built())}))"
    )
    if trouble:
        return Finding("Horovod", NOTE, trouble, "torchrun is used instead; to have Horovod: " + _horovod_fix())
    parts = ", ".join(f"{part} {'yes' if found[part] else 'no'}" for part in ("gloo", "MPI", "NCCL"))
    return Finding("Horovod", OK, f"{found['version']}: {parts}")


def _horovod_fix() -> str:
    return str(read_state().get("fix") or "apt-get install g++ make cmake python3-dev, then make setup")


def check_launcher(launcher: str) -> Finding:
    """Two ranks under ``launcher`` ("horovod", "mpi" or "torch") that add up a number."""
    name = {"horovod": "2 ranks, horovodrun", "mpi": "2 ranks, MPI", "torch": "2 ranks, torchrun"}[launcher]
    if launcher != "torch" and horovod_trouble():
        return Finding(name, NOTE, "not tried: no Horovod", "see Horovod")
    if launcher == "mpi" and not read_state().get("mpi"):
        return Finding(name, OK, "Horovod is built without MPI (only Adasum needs it)")
    good, text = ranks_start(launcher)
    if good:
        return Finding(name, OK, AGREE)
    last = text.splitlines()[-1] if text else "nothing was printed"
    fix = f"python -m reelkin.launch.rank_check --launcher {launcher} shows more; check the host name and the loopback"
    return Finding(name, BAD, last[:300], fix)


def check_dali() -> Finding:
    """DALI decodes on GPUs for extract/run.py; PyAV does it without."""
    found, trouble = probe(
        "import json, nvidia.dali as dali\n"
        "from nvidia.dali import fn\n"
        "fn.decoders.video, fn.resize\n"
        "print(json.dumps({'version': dali.__version__}))"
    )
    if not trouble:
        return Finding("DALI", OK, f"{found['version']}: decodes on GPUs; PyAV decodes the rest")
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        return Finding("DALI", OK, "none is made for this platform: PyAV decodes")
    fix = "make setup installs it, REELKIN_DALI=0 leaves it out; or: pip install -c constraints.txt nvidia-dali-cuda130"
    if "ModuleNotFoundError" in trouble:
        return Finding("DALI", NOTE, "not installed: PyAV decodes everything", fix)
    return Finding("DALI", NOTE, f"{trouble}; PyAV decodes", fix)


def check_pyav() -> Finding:
    """PyAV and the codecs that its FFmpeg was built with."""
    found, trouble = probe(
        "import av, json\n"
        "def has(name, mode):\n"
        "    try:\n"
        "        return bool(av.codec.Codec(name, mode))\n"
        "    except Exception:\n"
        "        return False\n"
        "readers = {n: has(n, 'r') for n in ('h264', 'hevc', 'vp8', 'vp9', 'av1', 'mpeg4', 'mjpeg')}\n"
        "writers = {n: has(n, 'w') for n in ('libx264', 'libvpx-vp9')}\n"
        "print(json.dumps({'version': av.__version__, 'readers': readers, 'writers': writers}))"
    )
    if trouble:
        return Finding("PyAV", BAD, trouble, SETUP)
    there = [name for name, good in (found["readers"] | found["writers"]).items() if good]
    absent = [name for name, good in (found["readers"] | found["writers"]).items() if not good]
    text = f"{found['version']}: {' '.join(there)}"
    if absent:
        fix = "install PyAV from its wheel, which bundles FFmpeg: pip install --only-binary av --force-reinstall av"
        return Finding("PyAV", BAD if "h264" in absent else NOTE, f"{text}; without {' '.join(absent)}", fix)
    return Finding("PyAV", OK, text)


def check_faiss() -> Finding:
    """faiss, of which exactly one distribution may be installed."""
    found, trouble = probe(
        "import importlib.metadata as m, json\n"
        "names = {d.metadata['Name'].lower() for d in m.distributions()}\n"
        "installed = sorted(n for n in names if n.startswith('faiss-'))\n"
        "import faiss, numpy\n"
        "faiss.IndexFlatIP(4).add(numpy.eye(4, dtype='float32'))\n"
        "gpus = faiss.get_num_gpus() if hasattr(faiss, 'get_num_gpus') else 0\n"
        "print(json.dumps({'version': faiss.__version__, 'installed': installed, 'gpus': gpus}))"
    )
    if trouble:
        return Finding("faiss", BAD, trouble, "pip install -c constraints.txt faiss-cpu")
    names = " and ".join(found["installed"]) or "faiss"
    if len(found["installed"]) > 1:
        fix = f"they own the same module: pip uninstall -y {' '.join(found['installed'])}, then make setup"
        return Finding("faiss", BAD, f"{names} are both installed", fix)
    return Finding("faiss", OK, f"{names} {found['version']}, {found['gpus'] or 'no'} GPU")


def check_formats() -> Finding:
    """The libraries of the files between the stages."""
    found, trouble = probe(
        "import json, pyarrow.parquet, safetensors.numpy\n"
        "import importlib.metadata as m\n"
        "print(json.dumps({n: m.version(n) for n in ('pyarrow', 'safetensors')}))"
    )
    if trouble:
        return Finding("files", BAD, trouble, SETUP)
    return Finding("files", OK, ", ".join(f"{name} {version}" for name, version in found.items()))


def check_disk() -> Finding:
    """Room for what the stages write, here and in the folder for temporary files."""
    here, temporary = Path.cwd(), Path(tempfile.gettempdir())
    free = {str(folder): shutil.disk_usage(folder).free / 1e9 for folder in (here, temporary)}
    text = ", ".join(f"{folder} {gigabytes:.0f} GB free" for folder, gigabytes in free.items())
    if min(free.values()) < 2:
        return Finding("disk", NOTE, text, "the demo wants about 1 GB; remove something, or set TMPDIR to another disk")
    return Finding("disk", OK, text)


def check_shared_memory() -> Finding:
    """/dev/shm, over which worker processes and GPUs' ranks hand on data."""
    if not os.path.isdir("/dev/shm"):
        return Finding("/dev/shm", NOTE, "there is none", "mount a tmpfs there; in a container: --shm-size=8g")
    free = shutil.disk_usage("/dev/shm").free / 1e9
    if free < 0.5:
        return Finding("/dev/shm", NOTE, f"{free:.2f} GB free", "in a container: --shm-size=8g or --ipc=host")
    return Finding("/dev/shm", OK, f"{free:.1f} GB free")


# --- the whole --------------------------------------------------------------------------------------------------------

CHECKS: list[Callable[[], Finding]] = [
    check_python,
    check_torch,
    check_torchvision,
    check_horovod,
    lambda: check_launcher("horovod"),
    lambda: check_launcher("mpi"),
    lambda: check_launcher("torch"),
    check_dali,
    check_pyav,
    check_faiss,
    check_formats,
    check_disk,
    check_shared_memory,
]


def examine() -> list[Finding]:
    """Run every check, a few at a time; in the order of the list."""
    with ThreadPoolExecutor(max_workers=max(2, min(4, len(os.sched_getaffinity(0))))) as pool:
        return list(pool.map(lambda check: check(), CHECKS))


def can_work(findings: Sequence[Finding]) -> bool:
    """Whether the main job runs: nothing missing but, at most, all launchers but one."""
    launchers = [finding for finding in findings if finding.name.startswith("2 ranks")]
    others = [finding for finding in findings if finding not in launchers]
    return any(finding.found == AGREE for finding in launchers) and all(finding.state != BAD for finding in others)


def show(findings: Sequence[Finding]) -> None:
    """A table on a terminal, plain lines elsewhere."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table("", "state", "found", "fix")
        colours = {OK: "green", NOTE: "yellow", BAD: "red"}
        for one in findings:
            table.add_row(one.name, Text(one.state, colours[one.state]), Text(one.found), Text(one.fix))
        Console().print(table)
        return
    for one in findings:
        print(f"{one.state:<8}{one.name:<20}{one.found}{f'  -> {one.fix}' if one.fix else ''}")


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Entry of ``reelkin doctor``; 0 when the main job can run here, else 1."""
    parser = argparse.ArgumentParser(
        prog="reelkin doctor", description="What works on this machine, what is missing, and the fix for each."
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    options = parser.parse_args(argv)
    findings = examine()
    good = can_work(findings)
    if options.json:
        print(json.dumps({"ok": good, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        show(findings)
        print("Everything that the main job needs is here." if good else "The main job cannot run yet: see the fixes.")
    return int(ExitCode.OK if good else ExitCode.FAILED)


if __name__ == "__main__":
    sys.exit(main())
