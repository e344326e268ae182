#include "runtime.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>

#include "error.h"
#include "litert_c.h"
#include "log_capture.h"

namespace runner {
namespace {

template <auto destroy>
struct Destroy {
  template <class Object>
  void operator()(Object* object) const {
    destroy(object);
  }
};
template <class Handle, auto destroy>
using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, Destroy<destroy>>;

using Environment = Owned<LiteRtEnvironment, LiteRtDestroyEnvironment>;
using Model = Owned<LiteRtModel, LiteRtDestroyModel>;
using Options = Owned<LiteRtOptions, LiteRtDestroyOptions>;
using OpaqueOptions = Owned<LiteRtOpaqueOptions, LiteRtDestroyOpaqueOptions>;
using CompiledModel = Owned<LiteRtCompiledModel, LiteRtDestroyCompiledModel>;
using TensorBuffer = Owned<LiteRtTensorBuffer, LiteRtDestroyTensorBuffer>;

struct ElementType {
  Dtype dtype;
  LiteRtElementType type;
};
constexpr ElementType kElementTypes[] = {
    {Dtype::kFloat32, kLiteRtElementTypeFloat32}, {Dtype::kUint8, kLiteRtElementTypeUInt8},
    {Dtype::kInt8, kLiteRtElementTypeInt8},       {Dtype::kInt16, kLiteRtElementTypeInt16},
    {Dtype::kInt32, kLiteRtElementTypeInt32},     {Dtype::kInt64, kLiteRtElementTypeInt64},
    {Dtype::kBool, kLiteRtElementTypeBool}};

LiteRtElementType element_type(Dtype dtype) {
  return std::find_if(std::begin(kElementTypes), std::end(kElementTypes),
                      [&](const ElementType& known) { return known.dtype == dtype; })
      ->type;
}

// Throws CannotRun unless a call succeeded; `what` says what had to.
void check(LiteRtStatus status, const char* what, const LogCapture& log) {
  if (status == kLiteRtStatusOk) return;
  const std::string said = log.last_error();
  if (said.find("Variable tensors") != std::string::npos) {
    throw CannotRun(
        "A state must be an input and an output: LiteRT's C API takes no model that keeps one inside, such as a fused "
        "LSTM. Convert it with another lowering.");
  }
  throw CannotRun(std::string("LiteRT must ") + what + ". Received: status " + std::to_string(status) +
                  (said.empty() ? "." : ", and it says: " + said));
}

// Options for the CPU. They own their payload, which is TOML (litert/c/options/litert_cpu_options.cc).
Options cpu_options(const LogCapture& log) {
  LiteRtOptions made = nullptr;
  check(LiteRtCreateOptions(&made), "make options", log);
  Options options(made);
  check(LiteRtSetOptionsHardwareAccelerators(options.get(), kLiteRtHwAcceleratorCpu), "choose the CPU", log);
  LiteRtOpaqueOptions opaque = nullptr;
  char* payload = strdup("num_threads = 1\n");
  const LiteRtStatus status = LiteRtCreateOpaqueOptions("xnnpack", payload, std::free, &opaque);
  if (status != kLiteRtStatusOk) std::free(payload);
  check(status, "make options for the CPU", log);
  OpaqueOptions added(opaque);
  check(LiteRtAddOpaqueOptions(options.get(), added.get()), "take options for the CPU", log);
  added.release();
  return options;
}

// The tensor's type as model.json has it, if the file agrees. A size of -1 in the file takes any.
LiteRtRankedTensorType agreed_type(LiteRtTensor tensor, const TensorSpec& spec, bool& has_free_size,
                                   const LogCapture& log) {
  LiteRtRankedTensorType type{};
  check(LiteRtGetRankedTensorType(tensor, &type), "know the shape of every input and output", log);
  bool agrees = type.element_type == element_type(spec.dtype) && type.layout.rank == spec.shape.size();
  for (std::size_t axis = 0; agrees && axis < spec.shape.size(); ++axis) {
    std::int32_t& size = type.layout.dimensions[axis];
    has_free_size = has_free_size || size < 0;
    agrees = size < 0 || size == spec.shape[axis];
    size = spec.shape[axis];
  }
  if (!agrees) throw CannotRun(spec.name + " must have the type and shape that model.json states. Convert it again.");
  return type;
}

// How the C API names one side of a signature.
struct SideApi {
  LiteRtStatus (*count)(LiteRtSignature, LiteRtParamIndex*);
  LiteRtStatus (*name)(LiteRtSignature, LiteRtParamIndex, const char**);
  LiteRtStatus (*tensor)(LiteRtSignature, LiteRtParamIndex, LiteRtTensor*);
  LiteRtStatus (*requirements)(LiteRtCompiledModel, LiteRtParamIndex, LiteRtParamIndex,
                               LiteRtTensorBufferRequirements*);
};
constexpr SideApi kInputs = {LiteRtGetNumSignatureInputs, LiteRtGetSignatureInputName,
                             LiteRtGetSignatureInputTensorByIndex, LiteRtGetCompiledModelInputBufferRequirements};
constexpr SideApi kOutputs = {LiteRtGetNumSignatureOutputs, LiteRtGetSignatureOutputName,
                              LiteRtGetSignatureOutputTensorByIndex, LiteRtGetCompiledModelOutputBufferRequirements};

// The inputs or the outputs of a signature. All but `places` is in the file's order.
struct Side {
  std::vector<std::size_t> places;  // Of each of model.json's tensors among the file's.
  std::vector<LiteRtRankedTensorType> types;
  bool has_free_size = false;
  std::vector<TensorBuffer> buffers;
  std::vector<LiteRtTensorBuffer> handles;

  // Finds model.json's tensors in the file.
  void match(const SideApi& api, LiteRtSignature signature, const std::vector<TensorSpec>& specs,
             const LogCapture& log) {
    LiteRtParamIndex count = 0;
    check(api.count(signature, &count), "count the inputs and outputs", log);
    types.resize(count);
    for (const TensorSpec& spec : specs) {
      const std::size_t place = place_of(spec.name, api, signature, count, log);
      if (std::find(places.begin(), places.end(), place) != places.end()) throw_names_differ();
      places.push_back(place);
      LiteRtTensor tensor = nullptr;
      check(api.tensor(signature, place, &tensor), "give the inputs and outputs", log);
      types[place] = agreed_type(tensor, spec, has_free_size, log);
    }
    if (places.size() != count) throw_names_differ();
  }

  void allocate(const SideApi& api, LiteRtEnvironment environment, LiteRtCompiledModel compiled,
                LiteRtParamIndex signature, const LogCapture& log) {
    for (const LiteRtRankedTensorType& type : types) {
      LiteRtTensorBufferRequirements requirements = nullptr;
      check(api.requirements(compiled, signature, buffers.size(), &requirements), "size a buffer", log);
      LiteRtTensorBuffer made = nullptr;
      check(LiteRtCreateManagedTensorBufferFromRequirements(environment, &type, requirements, &made), "make a buffer",
            log);
      buffers.emplace_back(made);
      handles.push_back(made);
    }
  }

 private:
  [[noreturn]] static void throw_names_differ() {
    throw CannotRun("model.tflite must have the inputs and outputs that model.json names. Convert it again.");
  }

  static std::size_t place_of(const std::string& wanted, const SideApi& api, LiteRtSignature signature,
                              std::size_t count, const LogCapture& log) {
    for (std::size_t place = 0; place < count; ++place) {
      const char* name = nullptr;
      check(api.name(signature, place, &name), "name the inputs and outputs", log);
      if (wanted == name) return place;
    }
    throw_names_differ();
  }
};

// Copies between a tensor buffer and `bytes` bytes in memory.
void copy(LiteRtTensorBuffer buffer, LiteRtTensorBufferLockMode mode, void* memory, std::size_t bytes,
          const LogCapture& log) {
  std::size_t packed = 0;
  check(LiteRtGetTensorBufferPackedSize(buffer, &packed), "know the size of a buffer", log);
  if (packed != bytes) throw CannotRun("A tensor must be as large as model.json says. Convert the model again.");
  void* address = nullptr;
  check(LiteRtLockTensorBuffer(buffer, &address, mode), "open a buffer", log);
  const bool is_write = mode == kLiteRtTensorBufferLockModeWrite;
  std::memcpy(is_write ? address : memory, is_write ? memory : address, bytes);
  check(LiteRtUnlockTensorBuffer(buffer), "close a buffer", log);
}

}  // namespace

struct Runtime::Handles {
  // First, so that it is destroyed last: LiteRT logs while it is torn down, too.
  LogCapture log;
  Environment environment;
  Model model;
  CompiledModel compiled;
};

Runtime::Runtime(const Bytes& bytes) : handles_(std::make_unique<Handles>()) {
  auto& [log, environment, model, compiled] = *handles_;
  LiteRtEnvironment made_environment = nullptr;
  check(LiteRtCreateEnvironment(0, nullptr, &made_environment), "start", log);
  environment.reset(made_environment);
  LiteRtModel made_model = nullptr;
  check(LiteRtCreateModelFromBuffer(environment.get(), bytes.data(), bytes.size(), &made_model),
        "read model.tflite", log);
  model.reset(made_model);
  LiteRtCompiledModel made_compiled = nullptr;
  const Options options = cpu_options(log);
  check(LiteRtCreateCompiledModel(environment.get(), model.get(), options.get(), &made_compiled),
        "load model.tflite", log);
  compiled.reset(made_compiled);
}

Runtime::~Runtime() = default;

// The handles are the runtime's; the buffers are this graph's.
struct Graph::Buffers {
  const Runtime::Handles& handles;
  const Signature& spec;
  LiteRtParamIndex index;  // Of the signature in the file.
  Side inputs, outputs;
};

namespace {

LiteRtSignature signature_at(LiteRtModel model, LiteRtParamIndex index, const LogCapture& log) {
  LiteRtSignature signature = nullptr;
  check(LiteRtGetModelSignature(model, index, &signature), "give a signature", log);
  return signature;
}

LiteRtParamIndex index_of_signature(LiteRtModel model, const std::string& name, const LogCapture& log) {
  LiteRtParamIndex count = 0;
  check(LiteRtGetNumModelSignatures(model, &count), "list the signatures", log);
  for (LiteRtParamIndex index = 0; index < count; ++index) {
    const char* key = nullptr;
    check(LiteRtGetSignatureKey(signature_at(model, index, log), &key), "name a signature", log);
    if (name == key) return index;
  }
  throw CannotRun("model.tflite must have the signature " + name + ". Convert it again.");
}

// Tells LiteRT the sizes that the file leaves open: the batch is 1.
void resize(LiteRtCompiledModel compiled, LiteRtParamIndex signature, const Side& inputs, const Side& outputs,
            const LogCapture& log) {
  for (std::size_t place = 0; place < inputs.types.size(); ++place) {
    const LiteRtLayout& layout = inputs.types[place].layout;
    check(LiteRtCompiledModelResizeInputTensor(compiled, signature, place, layout.dimensions, layout.rank),
          "take a batch of 1", log);
  }
  std::vector<LiteRtLayout> layouts(outputs.types.size());
  check(LiteRtGetCompiledModelOutputTensorLayouts(compiled, signature, layouts.size(), layouts.data(), true),
        "give the outputs of a batch of 1", log);
}

}  // namespace

Graph::Graph(const Runtime& runtime, const Signature& signature) {
  const auto& [log, environment, model, compiled] = *runtime.handles_;
  const LiteRtParamIndex index = index_of_signature(model.get(), signature.name, log);
  const LiteRtSignature in_file = signature_at(model.get(), index, log);
  Side inputs, outputs;
  inputs.match(kInputs, in_file, signature.inputs, log);
  outputs.match(kOutputs, in_file, signature.outputs, log);
  if (inputs.has_free_size || outputs.has_free_size) resize(compiled.get(), index, inputs, outputs, log);
  inputs.allocate(kInputs, environment.get(), compiled.get(), index, log);
  outputs.allocate(kOutputs, environment.get(), compiled.get(), index, log);
  buffers_.reset(new Buffers{*runtime.handles_, signature, index, std::move(inputs), std::move(outputs)});
}

Graph::~Graph() = default;

void Graph::set_input(std::size_t index, const Values& values) {
  const Side& inputs = buffers_->inputs;
  // `copy` takes memory for both directions; writing to a buffer only reads what is here.
  copy(inputs.handles[inputs.places[index]], kLiteRtTensorBufferLockModeWrite, const_cast<void*>(data_of(values)),
       count_of(values) * bytes_of(dtype_of(values)), buffers_->handles.log);
}

void Graph::invoke() {
  auto& inputs = buffers_->inputs.handles;
  auto& outputs = buffers_->outputs.handles;
  check(LiteRtRunCompiledModel(buffers_->handles.compiled.get(), buffers_->index, inputs.size(), inputs.data(),
                               outputs.size(), outputs.data()),
        "run model.tflite", buffers_->handles.log);
}

Values Graph::output(std::size_t index) const {
  const Side& outputs = buffers_->outputs;
  const TensorSpec& tensor = buffers_->spec.outputs[index];
  Values values = make_values(tensor.dtype, tensor.elements());
  copy(outputs.handles[outputs.places[index]], kLiteRtTensorBufferLockModeRead, data_of(values),
       count_of(values) * bytes_of(tensor.dtype), buffers_->handles.log);
  return values;
}

const char* runtime_version() { return "LiteRT " LITERT_VERSION " (C API)"; }

}  // namespace runner
