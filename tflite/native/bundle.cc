#include "bundle.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <limits>

#include <nlohmann/json.hpp>

#include "error.h"
#include "sha256.h"

namespace runner {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr int kFormatVersion = 2;
constexpr const char* kModelFile = "model.tflite";

Bytes read_file(const fs::path& path) {
  std::error_code error;
  if (!fs::exists(path, error)) throw CannotRun("No such file: " + path.string() + ". Copy the bundle again.");
  if (!fs::is_regular_file(path, error)) throw CannotRun("A file is wanted. Received: " + path.string() + ".");
  std::ifstream file(path, std::ios::binary);
  Bytes content{std::istreambuf_iterator<char>(file), {}};
  if (!file) throw CannotRun("A file must be readable. Received: " + path.string() + ".");
  return content;
}

void check_keys(const json& manifest) {
  const bool is_object = manifest.is_object();
  const json version = is_object && manifest.contains("format_version") ? manifest["format_version"] : json();
  if (!version.is_number_integer() || version != kFormatVersion) {
    throw CannotRun("format_version must be 2. Received: " + (is_object ? version.dump().substr(0, 80) : "no object") +
                    ".");
  }
  for (const char* key : {"manifest_sha256", "files", "signatures", "tolerance"}) {
    if (!manifest.contains(key)) {
      throw CannotRun("model.json must have the key " + std::string(key) + ". Copy the bundle again.");
    }
  }
  if (!manifest["files"].is_object() || !manifest["files"].contains(kModelFile)) {
    throw CannotRun("model.json must list model.tflite among its files, by name.");
  }
}

// The manifest's own hash is of its bytes with the hash's digits replaced by zeros.
void check_own_hash(Bytes content, const std::string& stated) {
  const auto place = std::search(content.begin(), content.end(), stated.begin(), stated.end());
  if (stated.size() == 64 && place != content.end()) std::fill_n(place, 64, '0');
  if (sha256(content.data(), content.size()) != stated) {
    throw CannotRun("model.json is damaged: its hash is not the one that it states. Copy the bundle again.");
  }
}

void check_name(const std::string& name) {
  const fs::path path(name);
  const bool leaves = path.is_absolute() || std::find(path.begin(), path.end(), "..") != path.end();
  if (leaves || name.find('\0') != std::string::npos) {
    throw CannotRun("Files must lie inside the bundle. Received: " + name + ".");
  }
}

Bytes read_checked(const fs::path& directory, const std::string& name, const json& entry) {
  check_name(name);
  Bytes content = read_file(directory / name);
  if (content.size() != entry.at("bytes") || sha256(content.data(), content.size()) != entry.at("sha256")) {
    throw CannotRun(name + " is damaged: it is not the file that model.json describes. Copy the bundle again.");
  }
  return content;
}

std::optional<double> optional_number(const json& value) {
  return value.is_null() ? std::nullopt : std::optional<double>(value.get<double>());
}

std::vector<std::int32_t> shape_of(const json& sizes) {
  std::vector<std::int32_t> shape;
  for (const json& size : sizes) {
    const auto value = size.get<std::int64_t>();
    if (!size.is_number_integer() || value < 1 || value > std::numeric_limits<std::int32_t>::max()) {
      throw CannotRun("A shape must hold sizes >= 1. Received: " + sizes.dump().substr(0, 80) + ".");
    }
    shape.push_back(static_cast<std::int32_t>(value));
  }
  return shape;
}

Tolerance tolerance_of(const json& from) {
  return {optional_number(from.at("max_error")), optional_number(from.at("rms_error")),
          optional_number(from.at("max_error_lsb")), optional_number(from.at("rms_error_lsb")),
          optional_number(from.at("mean_error_lsb")), optional_number(from.value("agreement", json()))};
}

TensorSpec tensor_of(const json& from, const json& files) {
  TensorSpec tensor{from.at("name"),   dtype_named(from.at("dtype")),       shape_of(from.at("shape")), std::nullopt,
                    from.at("golden"), dtype_named(from.at("golden_dtype")),
                    optional_number(from.value("magnitude", json())), std::nullopt};
  if (from.contains("tolerance")) tensor.tolerance = tolerance_of(from["tolerance"]);
  if (!files.contains(tensor.golden)) throw CannotRun("model.json must have the hash of " + tensor.golden + ".");
  if (const auto scale = optional_number(from.at("scale"))) {
    if (!(*scale > 0)) {
      throw CannotRun("A scale must be > 0. Received: " + from["scale"].dump() + " for " + tensor.name + ".");
    }
    tensor.grid = Grid{*scale, from.at("zero_point").get<std::int64_t>()};
  }
  return tensor;
}

std::size_t index_of(const std::vector<TensorSpec>& tensors, const std::string& name) {
  for (std::size_t index = 0; index < tensors.size(); ++index) {
    if (tensors[index].name == name) return index;
  }
  throw CannotRun("A state must name an input and an output of its signature. Received: " + name + ".");
}

Signature signature_of(const json& from, const json& files) {
  Signature signature{from.at("name"), {}, {}, 0, {}};
  for (const json& tensor : from.at("inputs")) signature.inputs.push_back(tensor_of(tensor, files));
  for (const json& tensor : from.at("outputs")) signature.outputs.push_back(tensor_of(tensor, files));
  const auto samples = from.at("golden_samples").get<std::int64_t>();
  if (samples < 1 || signature.inputs.empty() || signature.outputs.empty()) {
    throw CannotRun("A signature must have inputs, outputs and golden samples. Received: " + signature.name + ".");
  }
  signature.golden_samples = static_cast<std::size_t>(samples);
  for (const json& state : from.at("states")) {
    const State carried{index_of(signature.inputs, state.at("input")), index_of(signature.outputs, state.at("output"))};
    if (signature.inputs[carried.input].elements() != signature.outputs[carried.output].elements()) {
      throw CannotRun("A state's input and output must be of one size. Received: " + state.dump() + ".");
    }
    signature.states.push_back(carried);
  }
  return signature;
}

Bundle checked_bundle(const fs::path& directory) {
  const Bytes content = read_file(directory / "model.json");
  const json manifest = json::parse(content);
  check_keys(manifest);
  check_own_hash(content, manifest["manifest_sha256"]);
  const json& files = manifest["files"];
  Bundle bundle{{}, tolerance_of(manifest["tolerance"]), {}, files[kModelFile].at("sha256"), {}};
  for (const json& signature : manifest["signatures"]) bundle.signatures.push_back(signature_of(signature, files));
  if (bundle.signatures.empty()) throw CannotRun("model.json must describe at least one signature.");
  for (const auto& [name, entry] : files.items()) bundle.files[name] = read_checked(directory, name, entry);
  bundle.model = std::move(bundle.files.at(kModelFile));
  return bundle;
}

}  // namespace

bool TensorSpec::is_quantized() const {
  return grid && (dtype == Dtype::kInt8 || dtype == Dtype::kUint8 || dtype == Dtype::kInt16);
}

std::size_t TensorSpec::elements() const {
  std::size_t count = 1;
  for (const std::int32_t size : shape) {
    if (__builtin_mul_overflow(count, static_cast<std::size_t>(size), &count)) {
      throw CannotRun("A shape must fit into memory. Received: the one of " + name + ".");
    }
  }
  return count;
}

Values Bundle::golden(const TensorSpec& tensor, std::size_t samples) const {
  const Bytes& content = files.at(tensor.golden);
  std::size_t bytes = 0;
  if (__builtin_mul_overflow(tensor.elements(), samples, &bytes) ||
      __builtin_mul_overflow(bytes, bytes_of(tensor.golden_dtype), &bytes) || bytes != content.size()) {
    throw CannotRun(tensor.golden + " must hold " + std::to_string(samples) + " samples of the shape of " +
                    tensor.name + ". Received: " + std::to_string(content.size()) + " bytes.");
  }
  Values values = make_values(tensor.golden_dtype, bytes / bytes_of(tensor.golden_dtype));
  std::memcpy(data_of(values), content.data(), bytes);
  return values;
}

Bundle load_bundle(const fs::path& directory) {
  try {
    return checked_bundle(directory);
  } catch (const json::exception& error) {
    throw CannotRun(std::string("model.json is not what bundle.schema.json defines: ") + error.what() + ".");
  }
}

}  // namespace runner
