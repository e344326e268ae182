// LiteRT, as the runner sees it: a model whose signatures run on one thread of the CPU. Only runtime.cc knows its API.
#pragma once

#include <memory>

#include "bundle.h"
#include "values.h"

namespace runner {

class Runtime;

// One signature of a model, with a buffer for each input and output in the order of model.json.
class Graph {
 public:
  // Throws CannotRun if the file's signature is not the one that model.json describes.
  Graph(const Runtime& runtime, const Signature& signature);
  ~Graph();

  // Sets what an input is fed, in the type of the file's edge.
  void set_input(std::size_t index, const Values& values);
  void invoke();
  // What the last invocation gave.
  Values output(std::size_t index) const;

 private:
  struct Buffers;
  std::unique_ptr<Buffers> buffers_;
};

class Runtime {
 public:
  // The bytes must outlive the runtime. Throws CannotRun if LiteRT does not take them.
  explicit Runtime(const Bytes& model);
  ~Runtime();

 private:
  friend class Graph;
  struct Handles;
  std::unique_ptr<Handles> handles_;
};

// Name and version of the runtime.
const char* runtime_version();

}  // namespace runner
