#include "values.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <type_traits>

#include "error.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "Golden files are little-endian, and the runner does not swap bytes."
#endif

namespace runner {
namespace {

constexpr std::array<const char*, std::variant_size_v<Values>> kNames = {"float32", "uint8", "int8", "int16",
                                                                         "int32",   "int64", "bool"};

template <class Vector>
using Element = typename std::decay_t<Vector>::value_type;

// Limits compare as floats: the largest int32 and int64 round up to a float that no longer fits.
template <class To>
To saturated(float value) {
  if (std::isnan(value)) return 0;
  if (value <= static_cast<float>(std::numeric_limits<To>::min())) return std::numeric_limits<To>::min();
  if (value >= static_cast<float>(std::numeric_limits<To>::max())) return std::numeric_limits<To>::max();
  return static_cast<To>(value);
}

template <class To, class From>
To convert(From value) {
  if constexpr (std::is_same_v<To, Flag>) {
    return value != From{} ? Flag::kYes : Flag::kNo;
  } else if constexpr (std::is_same_v<From, float> && std::is_integral_v<To>) {
    return saturated<To>(value);
  } else {
    return static_cast<To>(value);
  }
}

template <std::size_t index = 0>
Values made(std::size_t wanted, std::size_t count) {
  if constexpr (index + 1 < std::variant_size_v<Values>) {
    if (index != wanted) return made<index + 1>(wanted, count);
  }
  return Values(std::in_place_index<index>, count);
}

// Not trunc(steps + 0.5): the sum rounds the float below a half up to 1.
float rounded(float steps) {
  const float whole = std::trunc(steps);
  return std::fabs(steps - whole) >= 0.5F ? whole + std::copysign(1.0F, steps) : whole;
}

}  // namespace

Dtype dtype_named(const std::string& name) {
  const auto found = std::find(kNames.begin(), kNames.end(), name);
  if (found == kNames.end()) throw CannotRun("A dtype must be one of the schema's. Received: " + name + ".");
  return static_cast<Dtype>(found - kNames.begin());
}

const char* name_of(Dtype dtype) { return kNames.at(static_cast<std::size_t>(dtype)); }

std::size_t bytes_of(Dtype dtype) {
  return std::visit([](const auto& typed) { return sizeof(Element<decltype(typed)>); }, make_values(dtype, 0));
}

Values make_values(Dtype dtype, std::size_t count) { return made(static_cast<std::size_t>(dtype), count); }

std::size_t count_of(const Values& values) {
  return std::visit([](const auto& typed) { return typed.size(); }, values);
}

const void* data_of(const Values& values) {
  return std::visit([](const auto& typed) -> const void* { return typed.data(); }, values);
}

void* data_of(Values& values) {
  return std::visit([](auto& typed) -> void* { return typed.data(); }, values);
}

Values slice(const Values& values, std::size_t start, std::size_t count) {
  return std::visit(
      [&](const auto& typed) -> Values {
        const auto first = typed.begin() + static_cast<std::ptrdiff_t>(start);
        return std::decay_t<decltype(typed)>(first, first + static_cast<std::ptrdiff_t>(count));
      },
      values);
}

void append(Values& values, const Values& more) {
  std::visit(
      [&](auto& typed) {
        const auto& added = std::get<std::decay_t<decltype(typed)>>(more);
        typed.insert(typed.end(), added.begin(), added.end());
      },
      values);
}

Values cast(const Values& values, Dtype dtype) {
  Values result = make_values(dtype, count_of(values));
  std::visit(
      [](const auto& from, auto& to) {
        using To = Element<decltype(to)>;
        std::transform(from.begin(), from.end(), to.begin(), [](auto value) { return convert<To>(value); });
      },
      values, result);
  return result;
}

std::vector<double> as_doubles(const Values& values) {
  return std::visit(
      [](const auto& typed) {
        std::vector<double> result;
        result.reserve(typed.size());
        for (const auto value : typed) result.push_back(static_cast<double>(value));
        return result;
      },
      values);
}

Values quantize(const Values& values, const Grid& grid, Dtype dtype) {
  Values steps = cast(values, Dtype::kFloat32);
  const float scale = static_cast<float>(grid.scale), zero_point = static_cast<float>(grid.zero_point);
  for (float& value : std::get<std::vector<float>>(steps)) value = rounded(value / scale) + zero_point;
  return cast(steps, dtype);
}

Values dequantize(const Values& values, const Grid& grid) {
  Values result = cast(values, Dtype::kFloat32);
  const float scale = static_cast<float>(grid.scale), zero_point = static_cast<float>(grid.zero_point);
  for (float& value : std::get<std::vector<float>>(result)) value = (value - zero_point) * scale;
  return result;
}

}  // namespace runner
