"""Building the environments: when they are kept, finished or built anew, and that locks, Makefile and image agree."""

import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

from deploy.blame import explain
from deploy.build_env import ensure
from deploy.diagnose import examine
from deploy.probe import pins
from deploy.target import Target, link_checkout, link_file, write_stamp
from tunesmith.environments import CHECKOUT, ENVIRONMENTS, STAMP

LOCKS = sorted((CHECKOUT / "locks").glob("*.txt"))


@pytest.fixture
def built(tmp_path: Path) -> Target:
    """An environment with one package in it, linked and stamped, without what takes long."""
    (tmp_path / "lock.txt").write_text("# a comment\ntinypkg==1.0\n")
    target = Target("train", tmp_path / "env", tmp_path / "lock.txt", "cpu", ("tinypkg",), tmp_path / "logs" / "log")
    _venv(target.folder)
    for name, content in _files("1.0").items():
        _put(link_file(target).parent / name, content)
    link_checkout(target)
    write_stamp(target)
    return target


def test_a_whole_environment_is_kept(built: Target):
    assert examine(built).action == "keep"
    assert (built.folder / STAMP).read_text().split() == built.stamp.split()


def test_one_that_does_not_exist_is_built(built: Target):
    shutil.rmtree(built.folder)
    assert examine(built).action == "rebuild"


def test_one_whose_interpreter_is_gone_is_built_anew(built: Target):
    built.python.unlink()
    built.python.symlink_to("/nowhere/python3.11")
    assert examine(built) == ("rebuild", "its interpreter does not start", ())


def test_one_without_a_stamp_is_finished(built: Target):
    (built.folder / STAMP).unlink()
    assert examine(built).action == "finish"


@pytest.mark.parametrize("change", ["lock", "device"])
def test_another_lock_or_device_is_another_environment(built: Target, change: str):
    if change == "lock":
        built.lock.write_text(built.lock.read_text() + "# moved\n")
    assert examine(built._replace(device="cuda") if change == "device" else built).action == "rebuild"


def test_one_of_another_checkout_is_built_anew(built: Target):
    link_file(built).write_text("/somewhere/else\n")
    assert examine(built).action == "rebuild"


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        ("tinypkg/data.txt", "tinypkg"),
        ("tinypkg-1.0.dist-info/RECORD", "tinypkg"),
        ("tinypkg-1.0.dist-info", "tinypkg"),
    ],
)
def test_a_lost_file_names_its_package(built: Target, lost: str, named: str):
    path = link_file(built).parent / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    verdict = examine(built)
    assert (verdict.action, verdict.faults) == ("finish", (named,))


def test_another_version_than_the_lock_is_a_fault_but_a_local_build_is_not(built: Target):
    metadata = link_file(built).parent / "tinypkg-1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("1.0", "1.0+cpu"))
    assert examine(built).action == "keep"
    metadata.write_text(metadata.read_text().replace("1.0+cpu", "1.1"))
    assert examine(built).faults == ("tinypkg",)


def test_a_library_that_is_nowhere_means_building_anew(built: Target):
    verdict = examine(built._replace(imports=("tinypkg", "absent_library")))
    assert verdict.action == "rebuild"
    assert "absent_library" in verdict.reason


def test_a_build_that_failed_is_finished_and_a_damaged_one_is_mended(built: Target, wheels: Path, capfd):
    shutil.rmtree(built.folder)
    lock = built.lock.read_text()
    built.lock.write_text("tinypkg==9.9\n")
    failure = ensure(built)
    assert failure is not None
    assert "has no tinypkg==9.9" in failure
    assert not (built.folder / STAMP).exists()

    built.lock.write_text(lock)
    assert ensure(built) is None
    assert "left half built" in capfd.readouterr().out
    assert ensure(built) is None
    assert capfd.readouterr().out.split() == ["train", "whole"]

    data = link_file(built).parent / "tinypkg" / "data.txt"
    data.unlink()
    assert ensure(built) is None
    assert data.exists()


def test_libraries_that_do_not_import_get_no_stamp(built: Target, wheels: Path):
    shutil.rmtree(built.folder)
    failure = ensure(built._replace(imports=("tinypkg.broken",)))
    assert failure is not None
    assert "its libraries do not import" in failure
    assert not (built.folder / STAMP).exists()


def test_the_command_starts_from_a_folder_with_a_space(tmp_path: Path):
    target = Target("main", tmp_path / "a folder" / "env", tmp_path / "lock.txt", "cpu", (), tmp_path / "log")
    _venv(target.folder)
    link_checkout(target)
    link_file(target).with_name("borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    done = subprocess.run([target.folder / "bin" / "tunesmith", "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "doctor" in done.stdout


@pytest.mark.parametrize(
    ("printed", "said"),
    [
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("Failed to establish a new connection: [Errno 101] Network is unreachable", "does not answer"),
        ("ERROR: No matching distribution found for vllm==0.32.0", "no vllm==0.32.0"),
        ("Error: ensurepip is not available", "python3.11-venv"),
        ("WARNING: Location x is ignored\nsomething new", "something new"),
    ],
)
def test_a_known_cause_becomes_a_sentence(printed: str, said: str):
    assert said in explain(printed)
    assert "WARNING" not in explain(printed)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_every_line_of_a_lock_is_pinned(lock: Path):
    lines = [line for line in lock.read_text().splitlines() if not line.startswith("#")]
    loose = [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!]+", line)]
    assert lines
    assert loose == []
    assert len(pins(lock)) == len(lines)


@pytest.mark.parametrize(
    ("lock", "extras"),
    [
        ("main", ["orchestrator", "dev"]),
        ("train-cpu", ["train"]),
        ("train-cuda", ["train"]),
        ("serve-cpu", ["serve-cpu"]),
        ("serve-cuda", ["serve-cuda"]),
    ],
)
def test_a_lock_holds_what_the_project_asks_for(lock: str, extras: list[str]):
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    asked = project["dependencies"] + [line for extra in extras for line in project["optional-dependencies"][extra]]
    locked = {_normal(name): version for name, version in pins(CHECKOUT / "locks" / f"{lock}.txt").items()}
    for requirement in asked:
        name, exact, version = requirement.partition("==")
        assert _normal(re.split(r"[<>=~ ]", name)[0]) in locked
        assert not exact or locked[_normal(name)] == version


@pytest.mark.parametrize("name", ["train", "serve"])
def test_only_the_cuda_locks_bring_cuda(name: str):
    on_cpu, on_cuda = (pins(CHECKOUT / "locks" / f"{name}-{device}.txt") for device in ("cpu", "cuda"))
    assert not [package for package in on_cpu if package.startswith("nvidia-")]
    assert "nvidia-cudnn-cu13" in on_cuda
    assert on_cpu["torch"] == on_cuda["torch"]


def test_the_image_is_built_with_make():
    runs = [line for line in _instructions() if line.startswith("RUN ")]
    made = [line.removeprefix("RUN make ").split()[0] for line in runs if line.startswith("RUN make ")]
    assert sorted(made) == sorted(f"env-{name}" for name in ENVIRONMENTS)
    assert not [line for line in runs if re.search(r"\b(pip|venv|uv)\b", line)]
    for target in made:
        assert subprocess.run(["make", "-n", target], cwd=CHECKOUT, capture_output=True).returncode == 0


def test_the_image_copies_what_building_an_environment_needs(tmp_path: Path):
    instructions = _instructions()
    before = instructions[: next(i for i, line in enumerate(instructions) if "AS train" in line)]
    for line in (line for line in before if line.startswith("COPY ")):
        *sources, folder = line.split()[1:]
        for source in sources:
            _copy(CHECKOUT / source, tmp_path / folder / (source if len(sources) == 1 else Path(source).name))
    done = subprocess.run(
        [sys.executable, "-I", "-c", "import sys; sys.path.insert(0, '.'); import deploy.build_env"], cwd=tmp_path
    )
    assert done.returncode == 0


def test_the_dockerfile_has_no_findings():
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, "Dockerfile"], cwd=CHECKOUT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the one wheel there is; pip looks nowhere else."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tinypkg-1.0-py3-none-any.whl", "w") as wheel:
        for name, content in _files("1.0").items():
            wheel.writestr(name, content)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def _files(version: str) -> dict[str, str]:
    info = f"tinypkg-{version}.dist-info"
    files = {
        "tinypkg/__init__.py": "",
        "tinypkg/data.txt": "data",
        "tinypkg/broken.py": "raise ImportError('no such symbol')\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: tinypkg\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in (*files, f"{info}/RECORD"))
    return {**files, f"{info}/RECORD": record}


def _venv(folder: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)


def _put(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _instructions() -> list[str]:
    """The Dockerfile's instructions, each on one line, without comments."""
    lines = [line for line in (CHECKOUT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    return [line for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line.strip()]
