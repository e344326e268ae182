"""LSTM or Transformer by length: its arithmetic, and one short run with the claims that its figures must bear out."""

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import keras_notes as kn
from keras_notes.layers import count_lstm_params
from tests.examples.pages import assert_self_contained, import_example, run_example, start_example

LENGTHS = [8, 16, 32]


@pytest.fixture(scope="module")
def example():
    return import_example("lstm_or_transformer")


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    output = tmp_path_factory.mktemp("lengths") / "build"
    return output, *run_example("lstm_or_transformer.py", output, "--longest", "32", "--rounds", "2")


def test_both_layers_have_the_same_parameters_to_one_percent(example):
    counted = {layer: example.network(layer, 8).count_params() for layer in example.LAYERS}
    assert counted["LSTM"] == count_lstm_params(64, 64)
    assert counted["Transformer"] == example.count_encoder_params(example.equal_hidden_width(counted["LSTM"]))
    assert abs(counted["Transformer"] / counted["LSTM"] - 1) < 0.01


def test_no_other_multiple_of_four_is_nearer(example):
    params = count_lstm_params(64, 64)
    width = example.equal_hidden_width(params)
    distances = [abs(example.count_encoder_params(width + change) - params) for change in (-4, 0, 4)]
    assert width % 4 == 0
    assert min(distances) == distances[1]


def test_weights_are_the_same_at_every_length(example):
    for layer in example.LAYERS:
        for short, long in zip(*(example.network(layer, length).get_weights() for length in (8, 16)), strict=True):
            np.testing.assert_array_equal(short, long)


def test_multiplications_are_those_of_the_equations(example):
    # Four gates from input and output; four projections, two dense layers, scores, and sums weighted by them.
    assert example.multiplications("LSTM", 10) == 10 * 4 * 64 * (64 + 64)
    hidden = example.equal_hidden_width(count_lstm_params(64, 64))
    assert example.multiplications("Transformer", 10) == 10 * (4 * 64 * 64 + 2 * 64 * hidden) + 2 * 64 * 10 * 10


@pytest.mark.parametrize("power", [0.0, 1.0, 1.7, 2.0])
def test_growth_is_the_exponent_of_a_power_law(example, power):
    lengths = [8, 32, 128]
    assert example.growth(lengths, [3.0 * length**power for length in lengths]) == pytest.approx(power)


def test_crossover_is_where_two_power_laws_meet(example):
    lengths = np.array([8, 16, 32, 64, 128])
    # 100 T = T^2 at T = 100, exact on logarithmic axes.
    assert example.crossover(lengths, 100.0 * lengths / lengths**2) == pytest.approx(100.0)
    assert example.crossover(lengths, lengths**2 / (100.0 * lengths)) == pytest.approx(100.0)


def test_crossover_is_the_last_of_several_and_none_without_any(example):
    assert example.crossover([8, 16, 32, 64], [2.0, 0.5, 2.0, 0.5]) == pytest.approx(32 * 2**0.5)
    assert example.crossover([8, 16, 32], [2.0, 3.0, 1.5]) is None
    assert example.crossover([8, 16, 32], [0.5, 0.4, 0.3]) is None


def test_a_ratio_of_one_at_a_measured_length_is_a_crossover_there(example):
    assert example.crossover([8, 16, 32], [2.0, 1.0, 0.5]) == pytest.approx(16.0)


def test_summary_reads_ratios_round_by_round(example):
    # The second round ran on a machine half as fast: times differ, ratios and crossover do not.
    lengths, slower = [8, 16, 32, 64], np.array([[1.0], [2.0]])
    times = {"LSTM": slower * np.array([2.0, 4.0, 8.0, 16.0]), "Transformer": slower * np.array([1.0, 2.0, 8.0, 32.0])}
    summary = example.summary(lengths, times, {"LSTM": [4, 4, 8, 16], "Transformer": [1, 4, 16, 64]})
    assert summary["time_ratio"] == [[2.0, 2.0, 1.0, 0.5]] * 3
    assert summary["time_crossover"] == pytest.approx(32.0)
    assert summary["time_crossover_quartiles"] == pytest.approx([32.0, 32.0])
    assert summary["rounds_that_cross"] == 2
    assert summary["memory_crossover"] == pytest.approx(16.0)
    assert summary["time_growth"] == pytest.approx({"LSTM": 1.0, "Transformer": 2.0})
    assert summary["memory_growth"] == pytest.approx({"LSTM": 1.0, "Transformer": 2.0})


@pytest.mark.slow
def test_states_its_protocol_and_the_parameters_before_it_measures(short_run):
    _, printed, report = short_run
    line = f"Parameters: LSTM {report['params']['LSTM']:,}, Transformer {report['params']['Transformer']:,}"
    assert printed.index("Weights are untrained") < printed.index(line) < printed.index("Time and memory by length")


@pytest.mark.slow
def test_the_page_is_self_contained_and_shows_the_printed_tables(short_run):
    output, printed, report = short_run
    text = (output / "report.html").read_text()
    assert assert_self_contained(text, figures=3).tags.count("pre") == 3
    assert sorted(path.stem for path in output.glob("*.svg")) == ["crossover", "length", "work"]
    line = next(line for line in printed.splitlines() if line.startswith("dynamic_int8") and " 32 " in line)
    median = np.array(report["recipes"]["dynamic_int8"]["time_ratio"])[1, -1]
    assert f"{median:.2f}" in line
    assert line in text


@pytest.mark.slow
def test_every_length_has_its_times_and_its_memory(short_run):
    _, _, report = short_run
    assert report["lengths"] == LENGTHS
    for row in report["recipes"].values():
        for layer in ("LSTM", "Transformer"):
            low, middle, high = np.array(row["time_ms"][layer])
            assert low.shape == (len(LENGTHS),)
            assert (low > 0).all()
            assert (low <= middle).all()
            assert (middle <= high).all()
            assert min(row["peak_bytes"][layer]) > 0
            assert len(row["operators"][layer]) == len(LENGTHS)


@pytest.mark.slow
def test_the_files_are_a_loop_and_an_attention(short_run):
    _, _, report = short_run
    for row in report["recipes"].values():
        assert all("WHILE" in operators for operators in row["operators"]["LSTM"])
        assert all(operators["SOFTMAX"] == 1 for operators in row["operators"]["Transformer"])
        assert not any("WHILE" in operators for operators in row["operators"]["Transformer"])


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["float32", "dynamic_int8"])
def test_the_memory_of_scores_grows_with_the_square_and_that_of_the_lstm_with_the_length(short_run, recipe):
    output, _, report = short_run
    largest = {
        layer: [largest_activation(output / "bundles" / f"{layer}_{recipe}_{length}") for length in LENGTHS]
        for layer in ("lstm", "transformer")
    }
    # Not 16: the keys of a head that is 16 wide have that shape too.
    for length in (8, 32):
        shapes = [shape for shape, _ in activations(output / "bundles" / f"transformer_{recipe}_{length}")]
        assert shapes.count((1, 4, length, length)) == 2, "before the softmax, and after it"
    assert report["score_bytes"] == [4 * 4 * length * length for length in LENGTHS]
    assert largest["transformer"][-1] == report["score_bytes"][-1]
    assert [size / length for size, length in zip(largest["lstm"], LENGTHS, strict=True)] == [4 * 64 * 4] * 3


def activations(directory):
    """Shape and bytes of the tensors of a file's main graph that depend on its input."""
    bundle = kn.bundle.open_bundle(directory)
    interpreter = Interpreter(str(bundle.model_path))
    interpreter.allocate_tensors()
    length = bundle.manifest.signatures[0].inputs[0].shape[1]
    shapes = [(tuple(detail["shape"].tolist()), detail["dtype"]) for detail in interpreter.get_tensor_details()]
    return [(shape, int(np.prod(shape)) * np.dtype(dtype).itemsize) for shape, dtype in shapes if length in shape]


def largest_activation(directory):
    """In bytes."""
    return max(size for _, size in activations(directory))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--longest", "8"], "--longest must be >= 16. Received: 8."),
        (["--rounds", "0"], "--rounds must be >= 1. Received: 0."),
        (["--output", "README.md"], "--output must be a directory, or a name not taken yet. Received: README.md"),
    ],
)
def test_wrong_options_are_errors(arguments, message):
    result = start_example("lstm_or_transformer.py", *arguments)
    assert result.returncode == 2
    assert message in result.stderr
