"""What the pages show must run."""

import re
from pathlib import Path

import numpy as np
import pytest

DOCS = Path(__file__).parents[1] / "docs"


def test_own_units(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", (DOCS / "own_units.md").read_text(), re.DOTALL)
    names = {"__name__": "own_units"}
    exec(compile(example, "own_units.md", "exec"), names)
    assert "converged" in capsys.readouterr().out
    np.testing.assert_allclose(np.sort(names["report"].w), [0.5, 2], rtol=1e-6)
    A = names["functional"].evaluate(names["report"].w).A
    np.testing.assert_allclose(np.sort(A.ravel()), [-3, 1, 2], rtol=1e-5)


def test_patch_networks(capsys):
    (example,) = re.findall(
        r"```python\n(.*?)```", (DOCS / "patch_networks.md").read_text(), re.DOTALL
    )
    exec(compile(example, "patch_networks.md", "exec"), {"__name__": "patch_networks"})
    printed = [line.split("#")[1].split(":")[0].strip() for line in example.splitlines()[-2:]]
    assert capsys.readouterr().out.splitlines() == printed


def test_metrics_page_names_every_key(tmp_path):
    from varpro_nn import configure, load, run

    few = {"n_units": 10, "images_per_subnetwork": 60, "max_nfev": 2, "bootstrap": True}
    page = (DOCS / "metrics.md").read_text()
    for recipe in ("bilinear", "tiny"):
        config = configure(recipe, data="digits", **few)
        metrics = run(config, load("digits"), n_jobs=1).metrics
        keys = [*metrics, *metrics["bootstrap"]]
        assert [key for key in keys if f"`{key}`" not in page] == []


def test_cluster(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", (DOCS / "cluster.md").read_text(), re.DOTALL)
    exec(compile(example, "cluster.md", "exec"), {"__name__": "cluster"})
    assert capsys.readouterr().out == "0\n"


def test_glue(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", (DOCS / "glue.md").read_text(), re.DOTALL)
    exec(compile(example, "glue.md", "exec"), {"__name__": "glue"})
    printed = example.splitlines()[-1].split("#")[1].split(":")[0].strip()
    assert capsys.readouterr().out.strip() == printed


@pytest.mark.parametrize("page", ["index.md", "start.md", "choose.md", "export.md", "sklearn.md"])
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), {"__name__": "page"})


def figures(text):
    return set(re.findall(r"\b0\.\d{4}\b", text))


@pytest.mark.parametrize(
    "page", ["choose.md", "paper.md", "mathematics.md", "comparison.md", "bootstrap.md"]
)
def test_accuracies_were_measured(page):
    """They stand in the README or the ledger."""
    root = DOCS.parent
    sources = [root / "README.md", *(root / "experiments").glob("**/*.md")]
    known = set().union(*(figures(path.read_text()) for path in sources))
    assert figures((DOCS / page).read_text()) - known == set()


def test_the_ledger_tells_what_its_pages_tell():
    folder = DOCS.parent / "experiments"
    known = set().union(*(figures(path.read_text()) for path in (folder / "results").glob("*.md")))
    (claims,) = re.findall(
        r"## What the claims came to\n(.*?)\n## ", (folder / "README.md").read_text(), re.DOTALL
    )
    assert figures(claims) - known == set()
