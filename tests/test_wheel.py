"""A wheel installed outside the checkout brings presets, run files and foundations, and answers."""

import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = (
    "video_llama", "train_configs", "eval_configs", "experiments",
    "pyproject.toml", "README.md", "LICENSE",
)  # fmt: skip


@pytest.fixture(scope="module")
def scripts(tmp_path_factory) -> Path:
    """The script folder of a fresh environment with the wheel and this environment's libraries."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip"]
    build = ["wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)]
    subprocess.run([*pip, *build], check=True)
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    libraries = environment / "lib" / version / "site-packages" / "libraries.pth"
    libraries.write_text(sysconfig.get_path("purelib") + "\n")
    python = environment / "bin" / "python"
    wheel = next(folder.glob("*.whl"))
    install = ["--python", str(python), "install", "-q", "--no-deps", "--ignore-installed"]
    subprocess.run([*pip, *install, str(wheel)], check=True)
    return environment / "bin"


@pytest.mark.slow
def test_the_installed_package_is_the_one_that_runs(scripts, tmp_path):
    code = "import video_llama; print(video_llama.__file__)"
    done = subprocess.run(
        [scripts / "python", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert Path(done.stdout.strip()).is_relative_to(scripts.parent)


@pytest.mark.slow
def test_the_shipped_model_answers_about_a_picture(scripts, tmp_path):
    words = ["chat", "--file", str(ROOT / "examples" / "picture.jpg"), "--json"]
    done = subprocess.run(
        [scripts / "video-llama", *words, "--question", "What do you see?"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert json.loads(done.stdout)


@pytest.mark.slow
def test_the_run_files_are_found_from_anywhere(scripts, tmp_path):
    run_file = "train_configs/visionbranch_stage1_pretrain.yaml"
    done = subprocess.run(
        [scripts / "video-llama", "train", "--cfg-path", run_file, "--dry-run"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert "985,894,528" in done.stdout
    assert done.returncode == 2
