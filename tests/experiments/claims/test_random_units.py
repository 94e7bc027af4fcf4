import json
import sys

import numpy as np
import pytest

from experiments.claims import random_units
from experiments.claims.random_units import (
    chosen,
    difference,
    measure,
    more_random_units,
    paired,
    verdict,
)
from varpro_nn import configure, load, run
from varpro_nn.training.config import OutputSettings


def row(won, lost, n=100):
    return {"only_trained_right": won, "only_untrained_right": lost, "n_test": n}


def test_paired_error_is_that_of_the_differences_image_by_image():
    rng = np.random.default_rng(0)
    trained, untrained = rng.random(400) < 0.9, rng.random(400) < 0.8
    counts = row(int(np.sum(trained & ~untrained)), int(np.sum(untrained & ~trained)), 400)
    each = trained.astype(float) - untrained.astype(float)
    mean, error = paired(counts)
    assert mean == pytest.approx(trained.mean() - untrained.mean())
    assert error == pytest.approx(each.std() / 400**0.5)


def test_networks_that_agree_have_no_error():
    assert paired(row(0, 0)) == (0.0, 0.0)
    assert verdict([row(0, 0)]) == "**no**"


def test_several_seeds_add_their_spread_and_do_not_shrink_the_part_of_the_images():
    one = difference([row(30, 10)])
    same = difference([row(30, 10)] * 4)
    assert same == pytest.approx(one)
    mean, error = difference([row(30, 10), row(40, 10)])
    spread = 0.5 * (0.05**2 + 0.05**2) * 2 / 2  # variance of 0.2 and 0.3 is 0.005, over two seeds
    images = [paired(row(30, 10))[1] ** 2, paired(row(40, 10))[1] ** 2]
    assert mean == pytest.approx(0.25)
    assert error == pytest.approx((np.mean(images) + spread) ** 0.5)


@pytest.mark.parametrize(
    ("won", "lost", "said"), [(30, 5, "yes"), (12, 8, "**no**"), (5, 30, "**no: it loses**")]
)
def test_verdict(won, lost, said):
    assert verdict([row(won, lost)]) == said


def test_more_random_units_are_named_where_they_do_as_well():
    def made(n_units, trained, untrained):
        names = {"trained": trained, "untrained": untrained}
        more = {"training_cpu_seconds": 1.0, "n_units": n_units}
        return [{k: {"test_accuracy": v, **more} for k, v in names.items()}]

    rows = {
        ("dense", 10): made(10, 0.9, 0.7), ("dense", 20): made(20, 0.95, 0.89),
        ("patches", 10): made(3, 0.9, 0.7), ("patches", 20): made(5, 0.95, 0.9),
    }  # fmt: skip
    (named,) = more_random_units(rows)
    assert named.startswith("patches, 3 trained")
    assert "by 5 untrained" in named


def test_only():
    seeds = {20: 2, 40: 1}
    assert len(chosen([], seeds)) == 2 * len(random_units.KINDS)
    assert chosen(["dense", "20"], seeds) == [("dense", 20)]
    assert chosen(["40"], seeds) == [(kind, 40) for kind in random_units.KINDS]
    for wrong in ("30", "cubic"):
        with pytest.raises(SystemExit, match="--only takes"):
            chosen([wrong], seeds)


@pytest.mark.parametrize("kind", random_units.KINDS)
@pytest.mark.parametrize("columns", random_units.SEEDS)
def test_settings_of_the_full_table(kind, columns):
    """About as many columns as are said, the same output layer, all training images."""
    digits = load("digits")
    mnist = type(digits)("mnist", digits.classes, digits.train, digits.test)
    config = random_units.settings(kind, columns, mnist, quick=False)
    cells = config.units.grid**2 if kind == "patches" else 1
    assert config.units.n_units * cells == pytest.approx(columns, abs=cells // 2)
    assert config.output == OutputSettings()  # a ridge layer without copies
    assert (config.n_train, config.subnetworks.scheme) == (None, "independent")


def test_measure_counts_images_that_one_alone_gets_right():
    digits = load("digits")
    config = configure(
        "bilinear", data=digits, n_units=20, n_subnetworks=1, images_per_subnetwork=200, max_nfev=3
    )
    found = measure(config, digits, 1)
    trained = run(config, digits, n_jobs=1)
    assert found["trained"]["test_accuracy"] == trained.metrics["test_accuracy"]
    assert found["n_columns"] == 20
    assert found["trained"]["n_parameters"] == found["untrained"]["n_parameters"]
    gap = found["trained"]["test_accuracy"] - found["untrained"]["test_accuracy"]
    assert paired(found)[0] == pytest.approx(gap)
    assert found["only_trained_right"] > found["only_untrained_right"]


def test_rows_are_kept_and_hold_together(tmp_path, monkeypatch, capsys):
    file = tmp_path / "rows.jsonl"
    arguments = ["random_units", "--quick", "--output", str(file), "--only"]

    def table(*only):
        monkeypatch.setattr(sys, "argv", [*arguments, *only])
        random_units.main()
        printed = capsys.readouterr().out
        return printed.rpartition('{"rows"')[0], json.loads(printed.splitlines()[-1])["rows"]

    text, rows = table("bilinear", "patches", "20")
    assert [(r["kind"], r["seed"]) for r in rows] == [
        ("bilinear", 0), ("bilinear", 1), ("patches", 0), ("patches", 1),
    ]  # fmt: skip
    assert [r["n_columns"] for r in rows] == [20, 20, 18, 18]
    for r in rows:
        gap = r["trained"]["test_accuracy"] - r["untrained"]["test_accuracy"]
        assert paired(r)[0] == pytest.approx(gap)
        assert r["trained"]["output_penalty_chosen_by"] == "leave-one-out"
    lines = len(file.read_text(encoding="utf-8").splitlines())
    assert lines == 4
    assert table("bilinear", "patches", "20")[0] == text
    assert len(file.read_text(encoding="utf-8").splitlines()) == lines
