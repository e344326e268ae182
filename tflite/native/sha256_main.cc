// Prints the SHA-256 of each file that is named, one a line: what the tests compare with another implementation.
#include <fstream>
#include <iostream>
#include <iterator>
#include <vector>

#include "sha256.h"

int main(int count, char** arguments) {
  for (int index = 1; index < count; ++index) {
    std::ifstream file(arguments[index], std::ios::binary);
    if (!file) {
      std::cerr << "sha256: cannot read " << arguments[index] << '\n';
      return 2;
    }
    const std::vector<char> data{std::istreambuf_iterator<char>(file), {}};
    std::cout << runner::sha256(reinterpret_cast<const std::uint8_t*>(data.data()), data.size()) << '\n';
  }
  return 0;
}
