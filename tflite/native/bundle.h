// A bundle as it is on disk, read and checked. ../bundle.schema.json defines the manifest.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "values.h"

namespace runner {

using Bytes = std::vector<std::uint8_t>;

// The largest errors that pass; none where a measure does not apply.
struct Tolerance {
  std::optional<double> max_error, rms_error, max_error_lsb, rms_error_lsb, mean_error_lsb, agreement;
};

struct TensorSpec {
  std::string name;
  Dtype dtype;
  std::vector<std::int32_t> shape;
  std::optional<Grid> grid;
  std::string golden;
  Dtype golden_dtype;
  // What relative limits are relative to; without it the largest golden value.
  std::optional<double> magnitude;
  // Without it that of the bundle.
  std::optional<Tolerance> tolerance;

  // Whether the edge of the file takes or gives integers of a grid.
  bool is_quantized() const;
  // How many values one sample has.
  std::size_t elements() const;
};

// What is carried from one step to the next: indices into the inputs and outputs.
struct State {
  std::size_t input;
  std::size_t output;
};

struct Signature {
  std::string name;
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
  std::size_t golden_samples;
  std::vector<State> states;
};

struct Bundle {
  std::vector<Signature> signatures;
  Tolerance tolerance;
  Bytes model;
  std::string model_sha256;
  // The content of each golden file whose hash was checked, by its path from the bundle's folder.
  std::map<std::string, Bytes> files;

  // All golden samples of an input or output.
  Values golden(const TensorSpec& tensor, std::size_t samples) const;
};

// Reads model.json and every file that it lists. Throws CannotRun if one is missing, damaged or not what it must be.
Bundle load_bundle(const std::filesystem::path& directory);

}  // namespace runner
