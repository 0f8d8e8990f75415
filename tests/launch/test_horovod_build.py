"""Horovod's wheel: what it is tied to, the cache around it, and what is said when it cannot be built."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import sys
import time
import zipfile
from pathlib import Path

import pytest

from reelkin.launch import horovod_build
from reelkin.launch.horovod_build import CannotBuildError, Plan, build_environment, cuda_tree, get_wheel

PLAN = Plan(
    python="cp311",
    torch="2.13.0+cpu",
    cuda="",
    mpi=False,
    nccl=False,
    compute_capabilities="",
    machine="x86_64",
    libc="glibc2.36",
    mpi_version="",
)
NAME = "horovod-0.28.1-cp311-cp311-linux_x86_64.whl"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "reelkin" / "wheels"


def fake_build(plan: Plan, folder: Path, log: Path) -> Path:
    """Stands for the compilers: slow, and it leaves a line for each time it ran."""
    with open(log.parent.parent / "builds", "a", encoding="utf-8") as file:
        file.write("built\n")
    time.sleep(0.5)
    with zipfile.ZipFile(folder / NAME, "w") as archive:
        archive.writestr("horovod/__init__.py", "")
    return folder / NAME


def build_in_a_process(_: int) -> str:
    horovod_build.build_wheel = fake_build
    return str(get_wheel(PLAN))


def builds(cache: Path) -> int:
    return len((cache / "builds").read_text().splitlines())


def test_two_setups_at_once_build_one_wheel(cache: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        wheels = pool.map(build_in_a_process, range(3))
    assert len(set(wheels)) == 1 and zipfile.is_zipfile(wheels[0])
    assert builds(cache) == 1


def test_a_failed_build_leaves_nothing_that_looks_like_a_wheel(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(plan: Plan, folder: Path, log: Path) -> Path:
        (folder / NAME).write_bytes(b"half")
        raise CannotBuildError("the build failed", "fix")

    monkeypatch.setattr(horovod_build, "build_wheel", fail)
    with pytest.raises(CannotBuildError):
        get_wheel(PLAN)
    assert not list(cache.rglob("*.whl"))
    monkeypatch.setattr(horovod_build, "build_wheel", fake_build)
    assert get_wheel(PLAN).is_file()


def test_a_damaged_wheel_is_built_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(horovod_build, "build_wheel", fake_build)
    wheel = get_wheel(PLAN)
    wheel.write_bytes(wheel.read_bytes()[:40])
    assert zipfile.is_zipfile(get_wheel(PLAN))
    assert builds(cache) == 2


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Plan)])
def test_whatever_a_wheel_is_tied_to_changes_its_place(field: str) -> None:
    value = getattr(PLAN, field)
    other = dataclasses.replace(PLAN, **{field: not value if isinstance(value, bool) else value + "x"})
    assert other.key != PLAN.key


def test_without_compiler_what_to_install_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(horovod_build.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(CannotBuildError) as caught:
        horovod_build.check_tools()
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}-dev"
    assert caught.value.fix == f"apt-get install g++ make {version}, then make setup"


def test_a_reason_is_recorded_for_the_other_commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REELKIN_HOROVOD", "0")
    monkeypatch.setattr(horovod_build, "STATE", tmp_path / "state.json")
    monkeypatch.setattr(sys, "argv", ["horovod_build.py"])
    assert horovod_build.main() == 1
    state = json.loads((tmp_path / "state.json").read_text())
    assert state["ok"] is False and "REELKIN_HOROVOD=0" in state["reason"] and state["fix"]


def test_settings_of_another_build_do_not_leak_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOROVOD_WITHOUT_GLOO", "1")
    monkeypatch.setenv("HOROVOD_WITH_TENSORFLOW", "1")
    monkeypatch.setattr(horovod_build, "find_cmake", lambda tools: "cmake")
    environment = build_environment(PLAN, tmp_path)
    assert {name for name in environment if name.startswith("HOROVOD_")} == {
        "HOROVOD_CMAKE",
        "HOROVOD_WITH_PYTORCH",
        "HOROVOD_WITH_GLOO",
        "HOROVOD_WITHOUT_MPI",
        "HOROVOD_WITHOUT_TENSORFLOW",
        "HOROVOD_WITHOUT_MXNET",
    }
    assert Path(environment["CMAKE_TOOLCHAIN_FILE"]).is_file()
    assert "HOROVOD_WITH_MPI" in build_environment(dataclasses.replace(PLAN, mpi=True), tmp_path)


def test_an_old_cmake_is_replaced_by_pips(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "cmake"
    program.parent.mkdir()
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(horovod_build, "pip", lambda *words: asked.append(words))
    monkeypatch.setenv("PATH", f"{program.parent}:/bin:/usr/bin")
    for version, from_pip in (("3.18.4", True), ("3.21.0", False), ("4.1.2", False)):
        program.write_text(f"#!/bin/sh\necho cmake version {version}\n")
        program.chmod(0o755)
        asked.clear()
        found = horovod_build.find_cmake(tmp_path / "tools")
        assert bool(asked) == from_pip
        assert (found == str(program)) != from_pip


def test_a_cuda_tree_is_put_together_from_pips_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    site, tools = tmp_path / "site", tmp_path / "tools"
    for name in ("include/cuda_runtime.h", "include/cublas_v2.h", "lib/libcudart.so.13"):
        (site / "nvidia" / "cu13" / name).parent.mkdir(parents=True, exist_ok=True)
        (site / "nvidia" / "cu13" / name).write_text("from torch")

    def pip(*words: str) -> None:
        assert "nvidia-cuda-nvcc==13.0.*" in words and "--no-deps" in words
        for name in ("bin/nvcc", "include/cuda_runtime.h", "lib/libnvvm.so"):
            (tools / "nvidia" / "cu13" / name).parent.mkdir(parents=True, exist_ok=True)
            (tools / "nvidia" / "cu13" / name).write_text("from nvcc")

    monkeypatch.setattr(horovod_build, "pip", pip)
    monkeypatch.setattr(horovod_build.sysconfig, "get_path", lambda name: str(site))
    tree = cuda_tree("13.0", tools)
    assert (tree / "bin" / "nvcc").is_file()
    assert (tree / "include" / "cublas_v2.h").read_text() == "from torch"
    assert (tree / "include" / "cuda_runtime.h").read_text() == "from nvcc"
    assert (tree / "lib64" / "libcudart.so").read_text() == "from torch"


def test_a_torch_without_cuda_headers_names_the_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(horovod_build.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(CannotBuildError) as caught:
        cuda_tree("12.8", tmp_path)
    assert "HOROVOD_CUDA_HOME" in caught.value.fix
