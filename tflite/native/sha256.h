// SHA-256 as in FIPS 180-4. Written out, because neither C++ nor Android's NDK has it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace runner {

// The hash of `size` bytes, as 64 lower-case hexadecimal digits.
std::string sha256(const std::uint8_t* data, std::size_t size);

}  // namespace runner
