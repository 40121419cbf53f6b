"""What README and docs promise: code blocks run, commands and files exist, every environment variable has its row."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from ebm_fast import cli

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [
    pytest.param(page, block, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.M | re.S))
]


def text() -> str:
    return "\n".join(page.read_text() for page in PAGES)


@pytest.mark.parametrize(("page", "block"), BLOCKS)
def test_code_block_runs(page, block, tmp_path, monkeypatch, capsys):
    """Each block by itself, as a reader pastes it; a comment behind a print says how its output begins."""
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)  # small tensors on several threads only wait, on a busy machine for minutes
    exec(compile(block, str(page), "exec"), {"__name__": "__main__"})
    printed = capsys.readouterr().out.splitlines()
    promised = [line.partition("#")[2].strip() for line in block.splitlines() if line.lstrip().startswith("print(")]
    for said, line in zip(promised, printed, strict=True):
        assert line.startswith(said)


def test_readme_has_code_for_each_kind_of_user():
    assert len([block for block in BLOCKS if block.id.startswith("README")]) >= 3


def test_make_targets_exist():
    named = set(re.findall(r"(?:^    |`|&& )make ([a-z]+)", text(), flags=re.M))
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    assert {"demo", "test"} <= named <= targets


def test_commands_exist():
    (commands,) = (a.choices for a in cli._parser()._subparsers._group_actions)
    named = set(re.findall(r"`ebm-fast ([a-z]+)", text()))
    assert "doctor" in named
    assert named <= set(commands)


def test_extras_exist():
    section = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]\n")[2].partition("\n[")[0]
    extras = set(re.findall(r"^([a-z]+) = ", section, flags=re.M))
    named = set(re.findall(r"`(?:ebm_fast|\.)?\[([a-z]+)\]", text()))
    assert named
    assert named <= extras


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if not re.match(r"https?://|mailto:|#", target):
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.name} links to {target}"


def test_every_environment_variable_has_its_row():
    """docs/environment.md is the one table of them, complete and without inventions."""
    sources = [ROOT / "setup.py", ROOT / "conftest.py", *(ROOT / "ebm_fast").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")]
    reads = re.compile(r"environ(?:\.get\(|\[)\s*\"(EBM_FAST_[A-Z_]+)\"")
    read = {name for source in sources for name in reads.findall(source.read_text())}
    rows = set(re.findall(r"^\| *`(EBM_FAST_[A-Z_]+)`", (ROOT / "docs" / "environment.md").read_text(), flags=re.M))
    assert {"EBM_FAST_BACKEND", "EBM_FAST_CPU_ISA", "EBM_FAST_CUDA"} <= read
    assert read == rows
