"""The recipe "auto": every format is tried and measured, and the best within the budget is kept."""

import dataclasses
import json
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import keras_notes as kn
from keras_notes import errors
from keras_notes.bundle import open_bundle
from keras_notes.conversion import _auto_recipe, _recipes, read_choice
from keras_notes.conversion._recipes import RECIPES
from tests.support.bundles import TESTDATA, bars, copied, rewrite

CALIBRATION, TEST = bars(200, seed=1)[0], bars(300, seed=2)


@pytest.fixture(scope="module")
def chosen(net, tmp_path_factory):
    """The smallest file within a point of accuracy."""
    directory = tmp_path_factory.mktemp("chosen") / "bundle"
    return kn.convert(net, directory, "auto", calibration=CALIBRATION, validation_data=TEST)


def _chosen_candidate(bundle):
    choice = read_choice(bundle)
    return choice.candidates[choice.chosen]


def test_every_recipe_is_tried_on_both_kernels(chosen):
    candidates = read_choice(chosen).candidates
    assert [(c.recipe, c.kernels) for c in candidates] == [(r, k) for r in RECIPES for k in ("xnnpack", "builtin")]
    assert all(c.bytes > 0 and c.p50_ms > 0 for c in candidates)


def test_the_smallest_file_within_the_budget_is_taken(chosen):
    choice, candidate = read_choice(chosen), _chosen_candidate(chosen)
    fitting = [c for c in choice.candidates if not c.reason]
    assert candidate.bytes == chosen.model_bytes
    smallest = min(fitting, key=lambda c: (c.bytes, c.p50_ms))
    is_much_slower = smallest.p50_ms > 2 * candidate.p50_ms and candidate.bytes <= 1.25 * smallest.bytes
    assert candidate.bytes == smallest.bytes or is_much_slower
    assert all((c.loss <= 0.01) == (not c.reason) for c in choice.candidates if "must be" not in c.reason)
    assert chosen.manifest.recipe == candidate.recipe


def test_the_table_says_what_verify_measures(chosen, net):
    choice, candidate = read_choice(chosen), _chosen_candidate(chosen)
    assert kn.verify(chosen, *TEST, kernels=candidate.kernels).accuracy == candidate.accuracy
    own = float((net.predict(TEST[0], verbose=0).argmax(-1) == TEST[1]).mean())
    assert choice.model_accuracy == pytest.approx(own)
    assert candidate.loss == pytest.approx(own - candidate.accuracy)
    assert choice.samples == len(TEST[1])


def test_the_file_is_that_of_the_recipe_by_name(chosen, net, tmp_path):
    recipe = chosen.manifest.recipe
    samples = np.unique(np.linspace(0, len(CALIBRATION) - 1, 32).round().astype(int))
    by_name = kn.convert(net, tmp_path / "bundle", recipe, golden=CALIBRATION[samples], calibration=CALIBRATION)
    assert by_name.model_path.read_bytes() == chosen.model_path.read_bytes()


def test_a_budget_of_the_error_leaves_out_what_errs_more(net, tmp_path):
    bundle = kn.convert(net, tmp_path / "bundle", "auto", calibration=CALIBRATION, accuracy_budget=0.001)
    by_recipe = {c.recipe: c for c in read_choice(bundle).candidates if c.kernels == "xnnpack"}
    assert bundle.manifest.recipe == "float16"
    assert by_recipe["weight_int4"].reason
    assert by_recipe["static_int8"].reason == "over the budget"
    assert by_recipe["static_int8"].loss > by_recipe["float16"].loss > by_recipe["float32"].loss


def test_without_calibration_the_recipes_that_need_none_are_tried_and_exceptions_hold(net, tmp_path):
    layer = next(layer.name for layer in net.layers if isinstance(layer, keras.layers.Dense))
    recipe = {"default": "auto", "layers": {layer: "float32"}}
    bundle = kn.convert(net, tmp_path / "bundle", recipe, golden=CALIBRATION[:8], validation_data=TEST)
    tried = {c.recipe for c in read_choice(bundle).candidates}
    assert tried == {"float32", "float16", "dynamic_int8", "weight_int4"}
    assert bundle.manifest.exceptions == {layer: "float32"}


def test_a_recipe_that_refuses_the_model_is_in_the_table_with_the_reason(tmp_path):
    inputs = keras.Input((6, 4))
    net = keras.Model(inputs, keras.layers.Dense(2)(keras.ops.cumsum(inputs, axis=1)))
    series = np.random.default_rng(0).normal(size=(64, 6, 4))
    bundle = kn.convert(net, tmp_path / "bundle", "auto", calibration=series, accuracy_budget=1.0)
    refused = next(c for c in read_choice(bundle).candidates if c.recipe == "static_int8")
    assert "must compute in integers throughout" in refused.reason
    assert refused.bytes is refused.p50_ms is refused.loss is None
    assert "must compute in integers" in str(read_choice(bundle))


@pytest.mark.parametrize("error", [errors.ConversionError, errors.BundleError])
def test_the_samples_are_counted_where_the_first_recipe_is_refused(error):
    bundle = open_bundle(TESTDATA)
    files = {name: (TESTDATA / name).read_bytes() for name in bundle.manifest.files}

    class Builder:
        name = "bars"

        def build(self, recipes, edges):
            if recipes.default.name == "float16":
                raise error("The model must not be converted by the first recipe.")
            return bundle.manifest, files

    candidates = [_recipes.parse_recipe(recipe) for recipe in ("float16", "static_int8")]
    criteria = _auto_recipe.Criteria(None, 1.0, "bytes")
    _, content = _auto_recipe.choose_best(Builder(), candidates, "float32", criteria)
    choice = json.loads(content["candidates.json"])
    assert [candidate["bytes"] is None for candidate in choice["candidates"]] == [True, True, False, False]
    assert choice["samples"] == bundle.manifest.signatures[0].golden_samples


def test_no_file_within_the_budget_is_an_error_with_the_table(net, tmp_path):
    with pytest.raises(errors.ConversionError, match=r"within the accuracy budget\. Received:(.|\n)*static_int8") as e:
        kn.convert(net, tmp_path / "b", "auto", edges="int8", calibration=CALIBRATION, accuracy_budget=0.0)
    assert "over the budget" in str(e.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("prefer", "times", "sizes", "best"),
    [
        ("bytes", (1.0, 2.0, 3.0), (30, 20, 10), 2),
        ("bytes", (2.0, 1.0, 3.0), (10, 10, 20), 1),
        ("bytes", (1.0, 11.0, 1.0), (124, 100, 900), 0),
        ("bytes", (1.0, 2.0, 0.1), (124, 100, 900), 1),
        ("bytes", (1.0, 11.0, 1.0), (126, 100, 900), 1),
        ("latency", (1.0, 2.0, 3.0), (30, 20, 10), 0),
        ("latency", (1.0, 1.04, 1.06), (30, 20, 10), 1),
    ],
)
def test_the_best_is_the_least_and_of_equals_the_other_measure_counts(monkeypatch, prefer, times, sizes, best):
    class Bundle:
        def __init__(self, model_bytes):
            self.model_bytes = model_bytes

    recipes = _recipes.parse_recipe("float32")
    runs = [
        _auto_recipe._Run(recipes, "xnnpack", bundle=Bundle(s), p50_ms=t) for t, s in zip(times, sizes, strict=True)
    ]
    assert _auto_recipe._best_of(runs, [0, 1, 2], prefer) == best


def test_a_smaller_file_that_is_much_slower_is_named_below_the_table():
    files = (("static_int8", 120, 1.0), ("int16x8", 100, 11.0))
    candidates = tuple(kn.bundle.Candidate(name, "xnnpack", size, time, None, 0.0, "") for name, size, time in files)
    choice = kn.bundle.Choice(0.01, "bytes", None, 32, candidates, chosen=0)
    assert str(choice).splitlines()[-1] == "int16x8 is 20 bytes smaller, but takes 11.0 times as long"
    assert "smaller" not in str(dataclasses.replace(choice, chosen=1))


@pytest.mark.parametrize(("correct", "budget", "fits"), [(99, 0.01, True), (98, 0.02, True), (97, 0.02, False)])
def test_a_loss_of_exactly_the_budget_is_within_it(monkeypatch, correct, budget, fits):
    report = SimpleNamespace(accuracy=correct / 100)
    monkeypatch.setattr(_auto_recipe, "verify", lambda *_, **__: report)
    run = _auto_recipe._Run(_recipes.parse_recipe("static_int8"), "xnnpack", bundle=open_bundle(TESTDATA))
    validation = _auto_recipe._Validation({}, np.zeros(100, int), 1.0)
    _auto_recipe._verify(run, _auto_recipe.Criteria(None, budget, "bytes"), validation)
    assert run.loss == (100 - correct) / 100
    assert run.reason == ("" if fits else "over the budget")


def test_a_damaged_table_is_a_bundle_error(chosen, tmp_path):
    for damage in (
        b"[]",
        b"{",
        json.dumps({**read_choice(chosen).to_dict(), "chosen": 99}).encode(),
        json.dumps({**read_choice(chosen).to_dict(), "candidates": [{"recipe": 1}]}).encode(),
        json.dumps({**read_choice(chosen).to_dict(), "prefer": 3}).encode(),
    ):
        directory = copied(chosen, tmp_path / str(len(list(tmp_path.iterdir()))))
        rewrite(directory, "candidates.json", damage)
        with pytest.raises(errors.BundleError, match="must be a JSON object with what was tried"):
            read_choice(open_bundle(directory))


def test_the_page_of_the_bundle_shows_the_table(chosen, tmp_path):
    page = kn.write_report(chosen, tmp_path / "report.html").read_text()
    assert "Candidates</h2>" in page
    assert page.count("<td>taken</td>") == page.count(">taken<") == 1


def test_another_recipe_leaves_no_table(converted):
    assert read_choice(converted("float32")) is None
