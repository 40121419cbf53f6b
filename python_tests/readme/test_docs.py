"""The pages of samplers and objectives: one for each, with the arguments that it has, and pictures that scripts draw.

That their code blocks run and their links lead somewhere is tested with those of every other page, in test_readme.py.
"""

from __future__ import annotations

import ast
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


FAMILY = ROOT / "docs" / "objectives"
LOSSES = {page.stem: page.read_text() for page in sorted(FAMILY.glob("*.md")) if page.stem not in ("index", "noise_models")}
OBJECTIVES = [name for name in ef.objectives.__all__ if hasattr(getattr(ef.objectives, name), "finish_checks")]


def calls(text: str) -> list[tuple[str, list[ast.expr], dict[str, object], bool]]:
    """(name, positional, keywords with their defaults, whether the list is open) of what the head of a page calls."""
    found = []
    for name, said in re.findall(r"`ef\.(?:objectives\.)?(\w+)\(([^`]*)\)`", text.partition("## When")[0]):
        closed = re.sub(r",\s*\.\.\.$", "", said)
        call = ast.parse(f"f({closed})", mode="eval").body
        assert isinstance(call, ast.Call)
        found.append((name, call.args, {k.arg: ast.literal_eval(k.value) for k in call.keywords if k.arg}, closed != said))
    return found


def arguments_of(name: str) -> dict[str, object]:
    """{argument: default} of an objective or bare loss, those that a class hands to its base included."""
    thing, known = getattr(ef.objectives, name), {}
    bases = [base.__init__ for base in thing.__mro__[:-1] if "__init__" in vars(base)] if isinstance(thing, type) else [thing]
    for function in bases:
        parameters = list(inspect.signature(function).parameters.values())
        for p in parameters:
            if p.name != "self" and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL):
                known.setdefault(p.name, p.default)
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            break
    return known


def test_every_objective_has_its_page():
    described = {name for text in LOSSES.values() for name, *_ in calls(text)}
    assert len(OBJECTIVES) >= 23
    assert set(OBJECTIVES) <= described
    assert {name for name in ef.objectives.__all__ if name.endswith("_loss")} <= described
    rows = re.findall(r"^\| \[(\w+)\]\((\w+)\.md\) \|", (FAMILY / "index.md").read_text(), flags=re.M)
    assert sorted(name for name, _ in rows) == sorted(OBJECTIVES)
    assert all(name in {call[0] for call in calls(LOSSES[page])} for name, page in rows)
    readme = (ROOT / "README.md").read_text()
    assert set(LOSSES) <= set(re.findall(r"docs/objectives/(\w+)\.md", readme))


@pytest.mark.parametrize("page", LOSSES)
def test_arguments_of_objectives_are_those_of_the_code(page):
    """`ef.NCE(energy, noise, num_noise=1, ...)`: names, order of those without default, and defaults; all of them unless it ends
    in `...`; `num_steps=...` is one that must be given."""
    for name, positional, keywords, is_open in calls(LOSSES[page]):
        real = arguments_of(name)
        words = [node.id for node in positional if isinstance(node, ast.Name)]
        assert len(words) == len(positional), f"{name}: an argument without a name"
        assert words == list(real)[: len(words)], f"{name}: {list(real)}"
        for word, default in [*((word, ...) for word in words), *keywords.items()]:
            assert real[word] == (inspect.Parameter.empty if default is ... else default), f"{word} of {name}"
        if not is_open:
            assert {*words, *keywords} == set(real), f"{name} has {list(real)}"


@pytest.mark.parametrize("page", LOSSES)
def test_a_page_of_an_objective_has_its_parts(page):
    text = LOSSES[page]
    parts = re.findall(r"^## (\w+)", text, flags=re.M)
    assert [part for part in parts if part not in ("Models", "Cost")] == ["When", "Example", "Knobs", "Pitfalls"]
    assert text.rstrip().rpartition("\n\n")[2].startswith("Source: ")
    assert re.search(r"\n\n    \S[^\n]* (=|>=|~) ", text.partition("## When")[0])  # the formula
    assert re.search(r"^```python\n.*^```", text.partition("## Example")[2].partition("\n## ")[0], flags=re.M | re.S)


@pytest.mark.parametrize("page", LOSSES)
def test_knobs_of_objectives_exist(page):
    """The first column of the table of knobs names arguments: of the objectives, a generator, the buffer, a score network."""
    known = {name for name, *_ in calls(LOSSES[page])} | {"Generator"}
    for name in set(known) - {"Generator"}:
        known |= set(arguments_of(name))
    for thing in (ef.ReplayBuffer, ef.objectives.players.Generator, ef.models.ScoreMLP):
        known |= set(inspect.signature(thing).parameters)
    rows = re.findall(r"^\| ([^|]+) \|", LOSSES[page].partition("## Knobs")[2].partition("\n## ")[0], flags=re.M)
    knobs = {word for row in rows for word in re.findall(r"`(\w+)`", row)}
    assert knobs or page == "bregman"
    assert knobs <= known, knobs - known


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_script_draws_its_picture(script, tmp_path, monkeypatch):
    """The script of a picture runs, names every axis, and draws a picture of the size of the one in the docs."""
    target = tmp_path / "picture.png"
    monkeypatch.setattr(sys, "argv", [str(script), str(target)])
    figure = runpy.run_path(str(script), run_name="__main__")["picture"]
    assert callable(figure)
    drawn, shown = (matplotlib.image.imread(path) for path in (target, ROOT / "docs/images/samplers" / f"{script.stem}.png"))
    rounding = 0 if matplotlib.__version_info__[:2] >= (3, 11) else 1  # older versions round a side another way
    assert max(abs(a - b) for a, b in zip(drawn.shape[:2], shown.shape[:2])) <= rounding
    # Other rounding moves a chain, not what the picture looks like: brightness on a grid of 8 x 8 fields.
    height, width = (min(sides) // 8 * 8 for sides in zip(drawn.shape[:2], shown.shape[:2]))

    def fields(image):
        return image[:height, :width, :3].reshape(8, height // 8, 8, width // 8, 3).mean((1, 3, 4))

    assert abs(fields(drawn) - fields(shown)).max() < 0.08
    assert fields(drawn).std() > 0.01
