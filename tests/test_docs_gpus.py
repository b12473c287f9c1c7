"""What the pages say about running: keys exist, options load, scripts are shell."""

from __future__ import annotations

import dataclasses
import re
import subprocess

import pytest
import yaml
from omegaconf import OmegaConf
from pages import PAGES, ROOT, blocks, table

from video_llama.common.config import load
from video_llama.common.schema import RunConfig
from video_llama.common.valid import Valid
from video_llama.common.zero import Zero

PAGE = ROOT / "docs" / "training_many_gpus.md"
RECIPE = ROOT / "train_configs" / "visionbranch_stage2_finetune.yaml"
KEYS = {field.name for field in dataclasses.fields(RunConfig)}
SHOWN = {"int_lr", "amp"}
"""A misspelling that is shown on purpose, and a key of the original that is translated."""
KEYS |= {f"zero.{field.name}" for field in dataclasses.fields(Zero)}
KEYS |= {f"valid.{field.name}" for field in dataclasses.fields(Valid)}


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p.name != "original_configs.md"], ids=lambda page: page.name
)
def test_every_key_of_the_run_section_that_a_page_names_exists(page):
    named = set(
        re.findall(
            r"[`\s]run\.((?:(?:zero|valid)\.)?[a-z][a-z0-9_]*)(?=[`=:\s,])", page.read_text("utf-8")
        )
    )
    assert named - SHOWN <= KEYS


def options_of(page):
    """The words behind --options in all shell blocks of a page."""
    for language in ("bash", "sh"):
        for block in blocks(page, language):
            for command in block.replace("\\\n", " ").splitlines():
                if "--options" in command and str(RECIPE.relative_to(ROOT)) in command:
                    words = command.split("--options", 1)[1].removesuffix("&").strip()
                    yield re.findall(r"[\w.]+=(?:'[^']*'|\S+)", words)


@pytest.mark.parametrize("options", options_of(PAGE), ids=" ".join)
def test_the_options_of_the_page_are_understood(options):
    told = dict(option.replace("'", "").split("=", 1) for option in options)
    config = load(RECIPE, options=[f"{key}={value}" for key, value in told.items()])
    resolved = OmegaConf.create(config.resolved)
    for key, value in told.items():
        assert OmegaConf.select(resolved, key) == yaml.safe_load(value)


@pytest.mark.parametrize("script", blocks(PAGE, "sh"), ids=["srun", "torchrun"])
def test_the_batch_scripts_are_shell(script):
    done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_row_of_the_batch_table_is_the_published_run():
    run = load(RECIPE).run
    rows = table(PAGE, "| GPUs |")
    assert len(rows) == 4
    for gpus, cells in rows.items():
        batch, accum, iters = map(int, cells)
        assert int(gpus) * batch * accum == 8 * run.batch_size_train * run.accum_grad_iters
        assert iters // accum == run.iters_per_epoch // run.accum_grad_iters
