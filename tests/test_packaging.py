"""What is installed is the same whichever way one installs it."""

from pathlib import Path

import yaml

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
STACK = {
    "torch",
    "transformers",
    "timm",
    "decord2",
    "torchaudio",
    "omegaconf",
    "peft",
    "deepspeed",
    "webdataset",
    "gradio",
}


def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins_of_pyproject() -> set[str]:
    project = pyproject()
    extras = project["optional-dependencies"]
    return {
        *project["dependencies"],
        *(pin for name in ("train", "demo", "eval") for pin in extras[name]),
    }


def test_requirements_have_the_pins_of_pyproject():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert {line for line in lines if line and not line.startswith("#")} == pins_of_pyproject()


def test_the_conda_environment_has_the_pins_of_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == "videollama"
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert set(pip) - {"-e ."} == pins_of_pyproject()


def test_the_whole_stack_is_named():
    names = {pin.split(">")[0].split("=")[0] for pin in pins_of_pyproject()}
    assert names >= STACK


def test_shipped_weights_are_small():
    folder = ROOT / "video_llama" / "foundations" / "toy"
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert 0 < size <= 12 * 2**20
