// The one error of the runner: why it cannot run.
#pragma once

#include <stdexcept>

namespace runner {

class CannotRun : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace runner
