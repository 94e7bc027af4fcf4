"""What the pages show must run."""

import inspect
import json
import re
import runpy
import traceback
from pathlib import Path

import numpy as np
import pytest
import scipy

import varpro_nn

DOCS = Path(__file__).parents[1] / "docs"


def test_own_units(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "own_units.md").read_text(), re.DOTALL)
    example, check, classifier = blocks
    names = {"__name__": "own_units"}
    exec(compile(example, "own_units.md", "exec"), names)
    assert "converged" in capsys.readouterr().out
    np.testing.assert_allclose(np.sort(names["report"].w), [0.5, 2], rtol=1e-6)
    A = names["functional"].evaluate(names["report"].w).A
    np.testing.assert_allclose(np.sort(A.ravel()), [-3, 1, 2], rtol=1e-5)
    exec(compile(check, "own_units.md", "exec"), names)
    exec(compile(classifier, "own_units.md", "exec"), names)
    assert float(capsys.readouterr().out) > 0.8
    assert type(names["network"].units) is names["Waves"]  # loaded again


def test_patch_networks(capsys):
    (example,) = re.findall(
        r"```python\n(.*?)```", (DOCS / "patch_networks.md").read_text(), re.DOTALL
    )
    exec(compile(example, "patch_networks.md", "exec"), {"__name__": "patch_networks"})
    printed = [line.split("#")[1].split(":")[0].strip() for line in example.splitlines()[-2:]]
    assert capsys.readouterr().out.splitlines() == printed


def test_metrics_page_names_every_key(tmp_path):
    from varpro_nn import configure, load, run

    few = {"n_units": 10, "images_per_subnetwork": 60, "max_nfev": 2, "n_train": 300}
    page = (DOCS / "metrics.md").read_text()
    divided = load("digits").hold_out(0.1)
    for recipe, refit in (("bilinear", False), ("tiny", True)):
        config = configure(recipe, data="digits", bootstrap=True, refit=refit, **few)
        metrics = run(config, divided, n_jobs=1).metrics
        metrics = {n: v for n, v in metrics.items() if not n.startswith("validation_")}
        keys = [*metrics, *metrics["bootstrap"]]
        assert [key for key in keys if f"`{key}`" not in page] == []


def test_cluster(digits_file, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", (DOCS / "cluster.md").read_text(), re.DOTALL)
    assert "ProcessPoolExecutor(2," in example
    example = example.replace("Executor(2,", "Executor(1,")  # each imports for a second
    assert 'load("digits")' in example
    example = example.replace('"digits"', repr(str(digits_file)))  # needs no scikit-learn
    exec(compile(example, "cluster.md", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out == "0\n"


def test_glue(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", (DOCS / "glue.md").read_text(), re.DOTALL)
    exec(compile(example, "glue.md", "exec"), {"__name__": "glue"})
    printed = example.splitlines()[-1].split("#")[1].split(":")[0].strip()
    assert capsys.readouterr().out.strip() == printed


def statements(block):
    return {line.split("#")[0].rstrip() for line in block.splitlines()}


@pytest.mark.usefixtures("briefly")
@pytest.mark.parametrize(
    "page", ["index.md", "start.md", "choose.md", "export.md", "sklearn.md", "two_layers.md"]
)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    assert blocks
    (of_readme,) = re.findall(r"```python\n(.*?)```", (DOCS.parent / "README.md").read_text(), re.S)
    for block in blocks:
        if statements(block) <= statements(of_readme):
            continue  # test_readme.py runs it
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


def test_differences_between_processors_were_measured():
    rows = (DOCS.parent / "experiments/results/processors.jsonl").read_text().splitlines()
    page = (DOCS / "reproducible.md").read_text()
    for row in map(json.loads, rows):
        trained = [t for name, t in row["result"]["trained"].items() if name != "Haswell"]
        predicted = [p for name, p in row["result"]["predicted"].items() if name != "Haswell"]
        exported = [p for p in predicted if "largest_difference_of_outputs" not in p]
        labels = sorted(t["labels_that_differ"] for t in trained)
        accuracy = sorted({t["test_accuracy"] for t in (*trained, predicted[0])})
        of_one = predicted[0]["test_accuracy"]
        assert {(p["labels_that_differ"], p["test_accuracy"]) for p in predicted} == {(0, of_one)}
        outputs = [
            max(p.get("largest_difference_of_outputs", 0.0) for p in some)
            for some in (trained, predicted)
        ]
        probabilities = max(p["largest_difference_of_probabilities"] for p in exported)
        some = list(dict.fromkeys((str(labels[0]), str(labels[-1]))))
        shares = list(dict.fromkeys((f"{accuracy[0]:.4f}", f"{accuracy[-1]:.4f}")))
        for said in (
            f"| {' to '.join(some)} | {' to '.join(shares)} | {outputs[0]:.2g} |",
            f"| 0 | {of_one:.4f} | {outputs[1]:.1e} |".replace("e-0", "e-"),
            f"| 0 | {of_one:.4f} | {probabilities:.1e} (of".replace("e-0", "e-"),
        ):
            assert said in page


def test_the_ledger_tells_what_its_pages_tell():
    folder = DOCS.parent / "experiments"
    known = set().union(*(figures(path.read_text()) for path in (folder / "results").glob("*.md")))
    (claims,) = re.findall(
        r"## What the claims came to\n(.*?)\n## ", (folder / "README.md").read_text(), re.DOTALL
    )
    assert figures(claims) - known == set()


def test_the_picture_of_the_packages_is_that_of_their_imports():
    drawn = runpy.run_path(str(DOCS / "draw_inside.py"))["draw"]()
    assert drawn == (DOCS / "inside.svg").read_text("utf-8"), "run python docs/draw_inside.py"


def test_the_path_of_an_image_is_that_of_a_run(monkeypatch):
    paths = []

    def recorded(*args, **options):
        frames = traceback.extract_stack()[:-1]
        paths.append([(frame.name, frame.filename) for frame in frames])
        return least_squares(*args, **options)

    least_squares = scipy.optimize.least_squares
    monkeypatch.setattr(scipy.optimize, "least_squares", recorded)
    few = {"n_units": 4, "n_subnetworks": 2, "images_per_subnetwork": 50, "max_nfev": 2}
    config = varpro_nn.configure("bilinear", data="digits", **few)
    varpro_nn.run(config, varpro_nn.load("digits"), n_jobs=1)
    package = Path(varpro_nn.__file__).parent
    called = [
        (name, Path(file).relative_to(package).as_posix())
        for name, file in paths[0]
        if Path(file).is_relative_to(package)
    ]
    rows = re.findall(r"^\| `([\w.]+)` \| `([\w/.]+)` \|", (DOCS / "inside.md").read_text(), re.M)
    assert called == [(name.split(".")[-1], file) for name, file in rows]


@pytest.mark.parametrize("page", ["inside.md", "contributing.md"])
def test_files_that_pages_name_are_there(page):
    root = DOCS.parent
    text = (root / "CONTRIBUTING.md" if page == "contributing.md" else DOCS / page).read_text()
    named = re.findall(r"`((?:[\w-]+/)*(?:[\w-]+/|[\w-]+\.(?:py|md|toml|txt)))`", text)
    known = (root, root / "varpro_nn", root / "experiments")
    assert len(named) > 5
    assert [name for name in named if not any((there / name).exists() for there in known)] == []


def test_the_reference_lists_the_public_names():
    public = (DOCS / "api.rst").read_text().split("For extensions\n=")[0]
    names = re.findall(r"^(?:   |\.\. py:data:: )varpro_nn\.(\w+)$", public, re.M)
    assert sorted(names) == sorted(varpro_nn.__all__)


def public_callables():
    """Public functions and classes, and the public methods of the latter, by name."""
    for name in sorted(set(varpro_nn.__all__) - {"__version__", "VarProError"}):
        thing = getattr(varpro_nn, name)
        yield name, thing
        if not inspect.isclass(thing):
            continue
        for method, function in inspect.getmembers(thing, inspect.isroutine):
            if not method.startswith("_") and function.__module__.startswith("varpro_nn"):
                yield f"{name}.{method}", function


def undescribed(thing):
    """Parameters that a docstring does not name."""
    described = set()
    for names in re.findall(r"^([\w, *]+)(?: : .+)?$", inspect.getdoc(thing) or "", re.M):
        described |= {part.strip("* ") for part in names.split(",")}
    missing = set(inspect.signature(thing).parameters) - {"self", "args", "kwargs"} - described
    if "settings" in described:  # of an estimator: the reference lists them group by group
        missing -= set(varpro_nn.TrainConfig().options())
    return missing


def test_docstrings_describe_every_parameter():
    missing = {name: undescribed(thing) for name, thing in public_callables()}
    assert len(missing) > 60
    assert {name: parameters for name, parameters in missing.items() if parameters} == {}
