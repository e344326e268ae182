// Runs a bundle on this device and compares it with the trained model.
//
//     run BUNDLE [--repeat N] [--outputs DIRECTORY]
//
// Prints one line of JSON. Exit code: 0 equal within the bundle's tolerance, 1 not equal, 2 cannot run (the reason is
// on stderr). The contract is in ../README.md.

#include <sys/utsname.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <iostream>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "bundle.h"
#include "compare.h"
#include "error.h"
#include "runtime.h"

namespace runner {
namespace {

namespace fs = std::filesystem;

constexpr int kEqual = 0, kNotEqual = 1, kCannotRun = 2;
constexpr int kWarmUpRuns = 10;

struct Arguments {
  fs::path bundle;
  int repeat = 100;
  std::optional<fs::path> outputs;
};

Values to_edge(const Values& values, const TensorSpec& tensor) {
  return tensor.is_quantized() ? quantize(values, *tensor.grid, tensor.dtype) : cast(values, tensor.dtype);
}

Values from_edge(const Values& values, const TensorSpec& tensor) {
  return tensor.is_quantized() ? dequantize(values, *tensor.grid) : values;
}

std::vector<Values> golden_inputs(const Bundle& bundle, const Signature& signature) {
  std::vector<Values> inputs;
  for (const TensorSpec& tensor : signature.inputs) inputs.push_back(bundle.golden(tensor, signature.golden_samples));
  return inputs;
}

Values golden_sample(const Values& inputs, const TensorSpec& tensor, std::size_t sample) {
  return slice(inputs, sample * tensor.elements(), tensor.elements());
}

// Runs the samples one by one; each output's values in the units of the trained model. With states, the samples are
// the steps of one sequence, and carry them on. Nothing else outlives a sample: LiteRT's C API refuses variables.
std::vector<Values> run_samples(Graph& graph, const Signature& signature, const std::vector<Values>& inputs) {
  std::vector<Values> outputs(signature.outputs.size()), last(signature.outputs.size());
  for (std::size_t sample = 0; sample < signature.golden_samples; ++sample) {
    std::vector<Values> fed;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      fed.push_back(golden_sample(inputs[i], signature.inputs[i], sample));
    }
    for (const State& state : signature.states) {
      if (sample > 0) fed[state.input] = last[state.output];
    }
    for (std::size_t i = 0; i < fed.size(); ++i) graph.set_input(i, to_edge(fed[i], signature.inputs[i]));
    graph.invoke();
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      last[i] = from_edge(graph.output(i), signature.outputs[i]);
      if (sample == 0) outputs[i] = make_values(dtype_of(last[i]), 0);
      append(outputs[i], last[i]);
    }
  }
  return outputs;
}

// Milliseconds of each of `repeat` invocations on the golden samples in turn, after a warm-up.
std::vector<double> latencies_ms(Graph& graph, const Signature& signature, const std::vector<Values>& inputs,
                                 int repeat) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> elapsed;
  for (int run = 0; run < kWarmUpRuns + repeat; ++run) {
    const std::size_t sample = static_cast<std::size_t>(run) % signature.golden_samples;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      graph.set_input(i, to_edge(golden_sample(inputs[i], signature.inputs[i], sample), signature.inputs[i]));
    }
    const auto start = Clock::now();
    graph.invoke();
    const std::chrono::duration<double, std::milli> duration = Clock::now() - start;
    if (run >= kWarmUpRuns) elapsed.push_back(duration.count());
  }
  return elapsed;
}

// Linear between the two nearest ranks.
double percentile(std::vector<double> values, double fraction) {
  std::sort(values.begin(), values.end());
  const double rank = fraction * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::size_t>(rank);
  const std::size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (rank - static_cast<double>(below)) * (values[above] - values[below]);
}

void write_values(const fs::path& directory, const TensorSpec& tensor, const Values& values) {
  const fs::path path = directory / fs::path(tensor.golden).filename();
  std::ofstream file(path, std::ios::binary);
  file.write(static_cast<const char*>(data_of(values)),
             static_cast<std::streamsize>(count_of(values) * bytes_of(dtype_of(values))));
  file.close();
  if (!file) throw CannotRun("The directory of --outputs must be writable. Received: " + path.string() + ".");
}

std::string device() {
  utsname name{};
  uname(&name);
  return std::string(name.sysname) + " " + name.machine;
}

// Each output's comparison, signature by signature.
std::vector<Comparison> compare_all(const Bundle& bundle, const Runtime& runtime, const Arguments& arguments) {
  std::vector<Comparison> compared;
  for (const Signature& signature : bundle.signatures) {
    Graph graph(runtime, signature);
    const std::vector<Values> outputs = run_samples(graph, signature, golden_inputs(bundle, signature));
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      const TensorSpec& tensor = signature.outputs[i];
      if (arguments.outputs) write_values(*arguments.outputs, tensor, outputs[i]);
      const Values golden = bundle.golden(tensor, signature.golden_samples);
      compared.push_back(compare(tensor, golden, outputs[i], tensor.tolerance.value_or(bundle.tolerance)));
    }
  }
  return compared;
}

nlohmann::ordered_json or_null(const std::optional<double>& value) {
  return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json();
}

nlohmann::ordered_json report(const std::vector<Comparison>& compared) {
  bool ok = true, is_finite = true;
  std::optional<double> max_error, max_error_lsb, top1_agreement;
  for (const Comparison& output : compared) {
    ok = ok && output.ok;
    is_finite = is_finite && output.max_error;
    if (output.max_error) max_error = std::max(max_error.value_or(0.0), *output.max_error);
    if (output.max_error_lsb) max_error_lsb = std::max(max_error_lsb.value_or(0.0), *output.max_error_lsb);
    if (output.top1_agreement) top1_agreement = std::min(top1_agreement.value_or(1.0), *output.top1_agreement);
  }
  nlohmann::ordered_json line = {{"runner", "native"}, {"runtime_version", runtime_version()}, {"device", device()}};
  line["ok"] = ok;
  line["max_error"] = or_null(is_finite ? max_error : std::nullopt);
  line["max_error_lsb"] = or_null(max_error_lsb);
  line["top1_agreement"] = or_null(top1_agreement);
  return line;
}

nlohmann::ordered_json run(const Arguments& arguments) {
  const Bundle bundle = load_bundle(arguments.bundle);
  if (arguments.outputs) fs::create_directories(*arguments.outputs);
  const Runtime runtime(bundle.model);
  nlohmann::ordered_json line = report(compare_all(bundle, runtime, arguments));
  const Signature& first = bundle.signatures.front();
  Graph graph(runtime, first);
  const std::vector<double> elapsed = latencies_ms(graph, first, golden_inputs(bundle, first), arguments.repeat);
  line["latency_ms_p50"] = percentile(elapsed, 0.50);
  line["latency_ms_p95"] = percentile(elapsed, 0.95);
  line["model_sha256"] = bundle.model_sha256;
  return line;
}

int positive(const std::string& text) {
  std::size_t used = 0;
  int value = 0;
  try {
    value = std::stoi(text, &used);
  } catch (const std::logic_error&) {
    used = 0;
  }
  if (used == 0 || used != text.size() || value < 1) {
    throw CannotRun("--repeat must be an integer >= 1. Received: " + text + ".");
  }
  return value;
}

Arguments parse(const std::vector<std::string>& words) {
  Arguments arguments;
  bool has_bundle = false;
  for (std::size_t index = 0; index < words.size(); ++index) {
    const std::string& word = words[index];
    const bool is_option = word == "--repeat" || word == "--outputs";
    if (is_option && index + 1 == words.size()) throw CannotRun(word + " must be followed by its value.");
    if (word == "--repeat") {
      arguments.repeat = positive(words[++index]);
    } else if (word == "--outputs") {
      arguments.outputs = words[++index];
    } else if (has_bundle || word.rfind("--", 0) == 0) {
      throw CannotRun("The call must be: run BUNDLE [--repeat N] [--outputs DIRECTORY]. Received: " + word + ".");
    } else {
      arguments.bundle = word;
      has_bundle = true;
    }
  }
  if (!has_bundle) throw CannotRun("The call must be: run BUNDLE [--repeat N] [--outputs DIRECTORY].");
  return arguments;
}

// The reason on one line, whatever a manifest's names hold.
std::string one_line(std::string text) {
  std::replace_if(text.begin(), text.end(), [](unsigned char letter) { return letter < ' ' || letter == 127; }, ' ');
  return text;
}

}  // namespace
}  // namespace runner

int main(int count, char** words) {
  std::string bundle;
  try {
    const runner::Arguments arguments = runner::parse({words + 1, words + count});
    bundle = " " + arguments.bundle.string();
    const auto line = runner::run(arguments);
    std::cout << line.dump() << std::endl;
    return line["ok"] ? runner::kEqual : runner::kNotEqual;
  } catch (const std::exception& error) {
    std::cerr << runner::one_line("run: cannot run" + bundle + ": " + error.what()) << '\n';
    return runner::kCannotRun;
  }
}
