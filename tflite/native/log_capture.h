// Keeps what a library logs on stderr off it, because a runner's stderr is one readable line.
#pragma once

#include <string>

namespace runner {

// While an instance lives, stderr goes to memory; the destructor restores it. One at a time.
class LogCapture {
 public:
  LogCapture();
  ~LogCapture();
  LogCapture(const LogCapture&) = delete;
  LogCapture& operator=(const LogCapture&) = delete;

  // The last line that starts with ERROR, without that word; empty if there is none.
  std::string last_error() const;

 private:
  int log_ = -1;
  int stderr_ = -1;
};

}  // namespace runner
