// How far the outputs of a device are from those of the trained model.
#pragma once

#include <optional>

#include "bundle.h"
#include "values.h"

namespace runner {

struct Comparison {
  std::optional<double> max_error;      // None where it is not finite.
  std::optional<double> max_error_lsb;  // None, too, for an output without a grid.
  std::optional<double> top1_agreement;  // None for an output without classes.
  bool ok;
};

// All samples of one output. With a grid it is measured in steps of that if the tolerance has limits in steps, else
// relative to the largest golden output. A NaN is not ok; nor is an output that nothing measures.
Comparison compare(const TensorSpec& tensor, const Values& golden, const Values& got, const Tolerance& tolerance);

}  // namespace runner
