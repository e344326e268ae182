// The values of a tensor in one of the types that a bundle knows, and the maths of an integer grid.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

namespace runner {

// A bool of exactly one byte, whose vector is an array.
enum class Flag : std::uint8_t { kNo = 0, kYes = 1 };

using Values = std::variant<std::vector<float>, std::vector<std::uint8_t>, std::vector<std::int8_t>,
                            std::vector<std::int16_t>, std::vector<std::int32_t>, std::vector<std::int64_t>,
                            std::vector<Flag>>;

// In the order of Values: the type of values is their index there.
enum class Dtype { kFloat32, kUint8, kInt8, kInt16, kInt32, kInt64, kBool };

// The type by its name in model.json. Throws CannotRun for another name.
Dtype dtype_named(const std::string& name);
const char* name_of(Dtype dtype);
std::size_t bytes_of(Dtype dtype);

Values make_values(Dtype dtype, std::size_t count);
inline Dtype dtype_of(const Values& values) { return static_cast<Dtype>(values.index()); }
std::size_t count_of(const Values& values);
const void* data_of(const Values& values);
void* data_of(Values& values);

// `count` values from `start` on, and the same type.
Values slice(const Values& values, std::size_t start, std::size_t count);
// Adds values of the same type at the end.
void append(Values& values, const Values& more);
// The values in another type, as C converts them; a float saturates, and a NaN becomes 0.
Values cast(const Values& values, Dtype dtype);
std::vector<double> as_doubles(const Values& values);

// One step and the zero of an integer grid.
struct Grid {
  double scale;
  std::int64_t zero_point;
};

// round(values / scale) + zero_point in float32, halves away from zero, saturated to the type.
Values quantize(const Values& values, const Grid& grid, Dtype dtype);
// (values - zero_point) * scale in float32.
Values dequantize(const Values& values, const Grid& grid);

}  // namespace runner
