#include "compare.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

namespace runner {
namespace {

constexpr double kStandardErrors = 3.0;

// The root mean square and the absolute mean are less 3 standard errors: what the draw of the samples does not explain.
struct Errors {
  double largest = 0.0;  // NaN if any error is.
  double rms = 0.0;
  double mean = 0.0;
  double magnitude = 0.0;  // The largest absolute golden value, or 1 if all are 0.
};

// The larger of the two; a NaN stays.
double larger(double most, double value) { return std::isnan(most) || value <= most ? most : value; }

// The absolute mean, less 3 standard errors.
double beyond_chance(const std::vector<double>& values) {
  const auto count = static_cast<double>(values.size());
  double mean = 0.0, squares = 0.0;
  for (const double value : values) mean += value / count;
  for (const double value : values) squares += (value - mean) * (value - mean);
  const double error = count > 1.0 ? std::sqrt(squares / (count - 1.0) / count) : 0.0;
  return larger(std::fabs(mean) - kStandardErrors * error, 0.0);
}

Errors errors_of(const std::vector<double>& golden, const std::vector<double>& got, std::size_t samples) {
  Errors errors;
  const std::size_t size = golden.size() / samples;
  std::vector<double> squares(samples, 0.0), means(samples, 0.0);
  for (std::size_t index = 0; index < golden.size(); ++index) {
    const double error = got[index] - golden[index];
    errors.largest = larger(errors.largest, std::fabs(error));
    errors.magnitude = larger(errors.magnitude, std::fabs(golden[index]));
    squares[index / size] += error * error / static_cast<double>(size);
    means[index / size] += error / static_cast<double>(size);
  }
  errors.rms = std::sqrt(beyond_chance(squares));
  errors.mean = beyond_chance(means);
  if (errors.magnitude == 0.0) errors.magnitude = 1.0;
  return errors;
}

// The first largest; a NaN counts as larger than all.
std::size_t argmax(const double* values, std::size_t count) {
  std::size_t best = 0;
  for (std::size_t index = 1; index < count && !std::isnan(values[best]); ++index) {
    if (std::isnan(values[index]) || values[index] > values[best]) best = index;
  }
  return best;
}

std::optional<double> agreement(const TensorSpec& tensor, const std::vector<double>& golden,
                                const std::vector<double>& got) {
  if (tensor.shape.size() < 2 || tensor.shape.back() < 2) return std::nullopt;
  const auto classes = static_cast<std::size_t>(tensor.shape.back());
  std::size_t same = 0;
  for (std::size_t row = 0; row < golden.size(); row += classes) {
    same += argmax(&golden[row], classes) == argmax(&got[row], classes) ? 1 : 0;
  }
  return static_cast<double>(same) / static_cast<double>(golden.size() / classes);
}

std::size_t golden_samples(const TensorSpec& tensor, const std::vector<double>& golden) {
  std::size_t elements = 1;
  for (std::size_t axis = 1; axis < tensor.shape.size(); ++axis) elements *= static_cast<std::size_t>(tensor.shape[axis]);
  return std::max<std::size_t>(golden.size() / elements, 1);
}

double equal_share(const std::vector<double>& golden, const std::vector<double>& got) {
  std::size_t equal = 0;
  for (std::size_t index = 0; index < golden.size(); ++index) equal += golden[index] == got[index] ? 1 : 0;
  return static_cast<double>(equal) / static_cast<double>(golden.size());
}

std::optional<double> finite(double value) {
  return std::isfinite(value) ? std::optional<double>(value) : std::nullopt;
}

}  // namespace

Comparison compare(const TensorSpec& tensor, const Values& golden, const Values& got, const Tolerance& tolerance) {
  const std::vector<double> wanted = as_doubles(golden), found = as_doubles(got);
  const Errors errors = errors_of(wanted, found, golden_samples(tensor, wanted));
  std::vector<std::pair<double, std::optional<double>>> measures;
  // Class ids have no magnitude: how many are equal counts.
  const bool are_ids = !tensor.grid && tensor.golden_dtype != Dtype::kFloat32;
  if (are_ids && tolerance.agreement) {
    // Negative, because every other measure has an upper limit.
    measures = {{-equal_share(wanted, found), -*tolerance.agreement}};
  } else if (tensor.grid && tolerance.max_error_lsb) {
    const double scale = tensor.grid->scale;
    measures = {{errors.largest / scale, tolerance.max_error_lsb},
                {errors.rms / scale, tolerance.rms_error_lsb},
                {errors.mean / scale, tolerance.mean_error_lsb}};
  } else {
    const double magnitude = tensor.magnitude.value_or(errors.magnitude);
    measures = {{errors.largest / magnitude, tolerance.max_error}, {errors.rms / magnitude, tolerance.rms_error}};
  }
  const auto applies = [](const auto& measure) { return measure.second.has_value(); };
  // Not `value > limit`: a NaN must fail.
  const auto passes = [&](const auto& measure) {
    return !applies(measure) || (std::isfinite(measure.first) && measure.first <= *measure.second);
  };
  const bool ok = std::any_of(measures.begin(), measures.end(), applies) &&
                  std::all_of(measures.begin(), measures.end(), passes);
  return {finite(errors.largest), tensor.grid ? finite(errors.largest / tensor.grid->scale) : std::nullopt,
          are_ids ? std::nullopt : agreement(tensor, wanted, found), ok};
}

}  // namespace runner
