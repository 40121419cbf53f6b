"""The pages of the samplers: one for each, with the arguments that it has, and pictures that their scripts draw.

That their code blocks run and their links lead somewhere is tested with those of every other page, in test_readme.py.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import runpy
import sys
from pathlib import Path

import matplotlib.image
import pytest

import ebm_fast as ef

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs" / "samplers"
PAGES = {page.stem: page.read_text() for page in sorted(DOCS.glob("*.md")) if page.stem != "index"}
SCRIPTS = sorted((ROOT / "examples" / "samplers").glob("*.py"))
SAMPLERS = [
    name for name in ef.samplers.__all__
    if isinstance(getattr(ef.samplers, name), type) and dataclasses.is_dataclass(getattr(ef.samplers, name))
]  # fmt: skip


def signatures(text: str) -> list[tuple[str, str]]:
    """(name, arguments) of the constructors at the head of a page, those that are methods left out."""
    return re.findall(r"`(?:adapt=)?ef\.(\w+)\(([^`]*)\)`", text.partition("## When")[0])


def test_every_sampler_has_its_page():
    described = {name for text in PAGES.values() for name, _ in signatures(text)}
    assert len(SAMPLERS) >= 13
    assert set(SAMPLERS) <= described
    linked = set(re.findall(r"\]\((\w+)\.md", (DOCS / "index.md").read_text()))
    assert linked == set(PAGES)
    assert {script.stem for script in SCRIPTS} == {*PAGES, "signs"}


@pytest.mark.parametrize("page", PAGES)
def test_arguments_are_those_of_the_code(page):
    """`ef.HMC(step_size, num_leapfrog=10, ...)` at the head of a page: names and defaults of the signature, all of them unless it
    ends in `...`; ChEES refuses what it does not name."""
    for name, said in signatures(PAGES[page]):
        real = inspect.signature(getattr(ef, name)).parameters
        arguments = said.split(", ")
        for argument in arguments:
            if argument != "...":
                word, _, default = argument.partition("=")
                assert real[word].default == (eval(default) if default else inspect.Parameter.empty), f"{word} of {name}"
        assert arguments[-1] == "..." or name == "ChEES" or len(arguments) == len(real), f"{name} has {list(real)}"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_its_parts(page):
    text = PAGES[page]
    parts = re.findall(r"^## (\w+)", text, flags=re.M)
    assert parts == ["When", "Example", "Knobs", "Cost", "Pitfalls"]
    assert text.rstrip().rpartition("\n\n")[2].startswith("Source: ")
    assert f"](../images/samplers/{page}.png)" in text
    assert f"](../../examples/samplers/{page}.py)" in text
    assert re.search(r"^```python\n.*^```", text, flags=re.M | re.S)


@pytest.mark.parametrize("page", PAGES)
def test_knobs_exist(page):
    """The first column of the table of knobs names arguments: of a sampler of the page, of its adaptation, of `sample`."""
    names = {name for name, _ in signatures(PAGES[page])} | {"Adaptation", "ChEES", "HMC"}
    known = {*inspect.signature(ef.sample).parameters, *inspect.signature(ef.SimulatedAnnealing.geometric).parameters}
    for name in names:
        known |= set(inspect.signature(getattr(ef, name)).parameters)
    rows = re.findall(r"^\| ([^|]+) \|", PAGES[page].partition("## Knobs")[2].partition("## Cost")[0], flags=re.M)
    knobs = {word for row in rows for word in re.findall(r"`(\w+)`", row)}
    assert knobs or page == "metropolis_hastings"
    assert knobs <= known


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_script_draws_its_picture(script, tmp_path, monkeypatch):
    """The script of a picture runs, names every axis, and draws a picture of the size of the one in the docs."""
    target = tmp_path / "picture.png"
    monkeypatch.setattr(sys, "argv", [str(script), str(target)])
    figure = runpy.run_path(str(script), run_name="__main__")["picture"]
    assert callable(figure)
    drawn, shown = (matplotlib.image.imread(path) for path in (target, ROOT / "docs/images/samplers" / f"{script.stem}.png"))
    assert drawn.shape[:2] == shown.shape[:2]
    # Other rounding moves a chain, not what the picture looks like: brightness on a grid of 8 x 8 fields.
    height, width = (side // 8 * 8 for side in drawn.shape[:2])

    def fields(image):
        return image[:height, :width, :3].reshape(8, height // 8, 8, width // 8, 3).mean((1, 3, 4))

    assert abs(fields(drawn) - fields(shown)).max() < 0.08
    assert fields(drawn).std() > 0.01
