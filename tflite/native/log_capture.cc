#include "log_capture.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>

namespace runner {

LogCapture::LogCapture() {
  log_ = memfd_create("runner-log", MFD_CLOEXEC);
  if (log_ < 0) return;  // The log then shows on stderr: ugly, but nothing is lost.
  std::fflush(stderr);
  stderr_ = dup(STDERR_FILENO);
  if (stderr_ >= 0) dup2(log_, STDERR_FILENO);
}

LogCapture::~LogCapture() {
  std::fflush(stderr);
  if (stderr_ >= 0) {
    dup2(stderr_, STDERR_FILENO);
    close(stderr_);
  }
  if (log_ >= 0) close(log_);
}

std::string LogCapture::last_error() const {
  if (log_ < 0) return {};
  std::fflush(stderr);
  std::string log;
  char part[4096];
  for (off_t place = 0;;) {
    const ssize_t count = pread(log_, part, sizeof(part), place);
    if (count <= 0) break;
    log.append(part, static_cast<std::size_t>(count));
    place += count;
  }
  const std::string word = "ERROR: ";
  const std::size_t start = log.rfind(word);
  if (start == std::string::npos) return {};
  const std::size_t first = start + word.size();
  return log.substr(first, log.find('\n', first) - first);
}

}  // namespace runner
