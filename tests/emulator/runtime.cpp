// SPDX-License-Identifier: Apache-2.0
// Stands in for libcudart: a program that nvcc built runs its kernels on the emulator. Everything happens at once and
// in the order of the calls; a stream matters only for what is captured from it.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "emulator.hpp"
#include "interpreter.hpp"

namespace {

using Work = std::function<cudaError_t()>;
struct Graph {
  std::vector<Work> nodes;
};
struct Stream {
  Graph* capture = nullptr;  // what is being recorded
};
struct Event {
  std::chrono::steady_clock::time_point at{};
  Graph* capture = nullptr;
};

struct Image {  // one fat binary; it registers before main, so its PTX is parsed at first use
  std::map<unsigned, std::string> text_of;  // compute capability * 10 -> PTX
  std::unique_ptr<ptx::Module> module;
};
struct Symbol {
  Image* image = nullptr;
  std::string name;
  std::size_t dynamic_shared_limit = 48 * 1024;
};

struct Machine {
  std::vector<std::unique_ptr<Image>> images;
  std::map<const void*, Symbol> kernels, variables;
  std::map<std::uintptr_t, std::size_t> allocations;
  std::vector<std::unique_ptr<Graph>> open_graphs;
  struct Configuration {
    dim3 grid, block;
    std::size_t shared;
    cudaStream_t stream;
  };
  std::vector<Configuration> configurations;
  Stream default_stream;
  int captures = 0;
  cudaError_t last = cudaSuccess;
  bool broken = false;  // a kernel failed: as on a GPU, every later call says so
  emulator::Options options;
  std::vector<emulator::Launch> launches;
  std::string failure;
};
Machine& machine() {
  static Machine m;
  return m;
}

cudaError_t failed(cudaError_t e) { return machine().last = e; }

Stream& stream_of(cudaStream_t s) {
  const bool is_default = s == nullptr || s == cudaStreamLegacy || s == cudaStreamPerThread;
  return is_default ? machine().default_stream : *reinterpret_cast<Stream*>(s);
}

// Runs `work` now, or records it if the stream is being captured.
cudaError_t submit(cudaStream_t stream, Work work) {
  if (Graph* graph = stream_of(stream).capture) {
    graph->nodes.push_back(std::move(work));
    return cudaSuccess;
  }
  const cudaError_t e = work();
  return e == cudaSuccess ? e : failed(e);
}

// What may not happen while any stream is captured: allocation and waiting.
cudaError_t unless_capturing(const Work& work) {
  return machine().captures > 0 ? failed(cudaErrorStreamCaptureUnsupported) : work();
}

ptx::Module& module_of(Image& image) {
  if (!image.module) {
    const auto limit = static_cast<unsigned>(machine().options.compute_capability);
    auto text = image.text_of.upper_bound(limit);
    if (text == image.text_of.begin()) ptx::fail("no PTX for compute capability %u or below", limit);
    image.module = std::make_unique<ptx::Module>((--text)->second);
    for (auto [address, bytes] : machine().allocations) {
      image.module->memory.add(reinterpret_cast<void*>(address), bytes);
    }
  }
  return *image.module;
}

std::size_t shared_limit() {  // bytes a block may ask for
  const int cc = machine().options.compute_capability;
  return (cc == 80 ? 163u : cc == 90 || cc == 100 ? 227u : 99u) * 1024u;
}

emulator::Class class_of(const std::string& opcode) {
  using enum emulator::Class;
  const auto starts = [&](const char* p) { return opcode.rfind(p, 0) == 0; };
  const auto has = [&](const char* p) { return opcode.find(p) != std::string::npos; };
  if (starts("mma")) return mma;
  if (starts("ldmatrix") || starts("stmatrix") || starts("movmatrix")) return matrix_move;
  if (starts("ld.param") || starts("ld.const") || starts("st.param")) return parameter;
  if (starts("ld.local") || starts("st.local")) return local_memory;
  if (starts("ld")) return has(".shared") ? shared_load : global_load;
  if (starts("st.")) return has(".shared") ? shared_store : global_store;
  if (starts("cp.async.c") && has(".shared")) return async_copy;
  if (starts("atom") || starts("red.")) return atomic;
  if (starts("shfl") || starts("vote") || starts("match") || starts("redux")) return shuffle;
  for (const char* p : {"bar", "cp.async", "fence", "membar", "createpolicy", "griddep", "nanosleep"}) {
    if (starts(p)) return sync;
  }
  for (const char* p : {"bra", "brx", "ret", "exit", "call", "trap"}) {
    if (starts(p)) return branch;
  }
  if (starts("mov") || starts("cvta")) return move;
  for (const char* p : {".f16", ".bf16", ".f32", ".f64", "e4m3", "e5m2"}) {
    if (has(p)) return starts("cvt") ? convert : floating;
  }
  return integer;
}

emulator::Counters counters_of(const ptx::Module& module) {
  emulator::Counters sum;
  for (std::size_t i = 0; i < module.stats.size() && i < module.code.size(); ++i) {
    const ptx::Stat& s = module.stats[i];
    const emulator::Class c = class_of(module.code[i].opcode);
    const bool writes = c == emulator::Class::global_store || c == emulator::Class::atomic;
    sum.executed[static_cast<std::size_t>(c)] += s.exec;
    (writes ? sum.sectors_written : sum.sectors_read) += s.sectors;
    (writes ? sum.bytes_written : sum.bytes_read) += s.bytes;
    sum.shared_passes += s.waves;
    sum.shared_passes_ideal += s.wavesIdeal;
  }
  return sum;
}

cudaError_t execute(const Symbol& kernel, dim3 grid, dim3 block, const std::vector<const void*>& arguments,
                    std::size_t shared) {
  Machine& m = machine();
  if (m.broken) return cudaErrorLaunchFailure;
  try {
    ptx::Module& module = module_of(*kernel.image);
    if (shared > kernel.dynamic_shared_limit ||
        shared + module.entry(kernel.name).sharedBytes > shared_limit()) {
      return cudaErrorInvalidValue;
    }
    ptx::Options o;
    o.mma = static_cast<ptx::MmaMode>(m.options.mma);
    o.profile = m.options.count;
    o.racecheck = m.options.check_races;
    o.maxSteps = m.options.max_steps;
    o.resident = m.options.resident_blocks > 1 ? m.options.resident_blocks : 0;
    o.seed = m.options.seed;
    module.stats.clear();
    module.races.clear();
    module.launch(kernel.name, {grid.x, grid.y, grid.z}, {block.x, block.y, block.z},
                  static_cast<unsigned>(shared), arguments, o);
    emulator::Launch record;
    record.kernel = kernel.name;
    record.grid = {grid.x, grid.y, grid.z};
    record.block = {block.x, block.y, block.z};
    record.shared_bytes = shared + module.entry(kernel.name).sharedBytes;
    record.counters = counters_of(module);
    m.launches.push_back(record);
    if (!module.races.empty()) throw std::runtime_error("race: " + module.races.begin()->first);
  } catch (const std::exception& x) {
    m.failure = kernel.name + ": " + x.what();
    m.broken = true;
    std::fprintf(stderr, "emulator: %s\n", m.failure.c_str());
    return cudaErrorLaunchFailure;
  }
  return cudaSuccess;
}

cudaError_t launch(const void* function, dim3 grid, dim3 block, void** arguments, std::size_t shared,
                   cudaStream_t stream) {
  const auto found = machine().kernels.find(function);
  if (found == machine().kernels.end()) return failed(cudaErrorInvalidDeviceFunction);
  const Symbol& kernel = found->second;
  std::vector<std::vector<std::byte>> values;
  for (const ptx::Param& p : module_of(*kernel.image).entry(kernel.name).params) {
    const auto* from = static_cast<const std::byte*>(arguments[values.size()]);
    values.emplace_back(from, from + p.size);
  }
  return submit(stream, [&kernel, grid, block, shared, values = std::move(values)] {
    std::vector<const void*> pointers;
    for (const auto& v : values) pointers.push_back(v.data());
    return execute(kernel, grid, block, pointers, shared);
  });
}

// The layout of what nvcc embeds, see fatbinary_section.h of the toolkit.
struct FatWrapper {
  std::uint32_t magic, version;
  const std::byte* data;
  void* more;
};
struct FatHeader {
  std::uint32_t magic;
  std::uint16_t version, header_bytes;
  std::uint64_t bytes;
};
struct FatEntry {
  std::uint16_t kind, attributes;
  std::uint32_t header_bytes;
  std::uint64_t bytes;
  std::uint32_t compressed_bytes, options;
  std::uint16_t minor, major;
  std::uint32_t capability;
};
constexpr std::uint16_t ptx_kind = 1;

}  // namespace

namespace emulator {

const char* name_of(Class c) {
  static constexpr std::array<const char*, class_count> names{
      "mma",          "matrix move", "shared load",  "shared store", "async copy", "global load",
      "global store", "atomic",      "shuffle",      "integer",      "floating",   "convert",
      "branch",       "sync",        "local memory", "move",         "parameter"};
  return names[static_cast<std::size_t>(c)];
}
Options& options() { return machine().options; }
const std::vector<Launch>& launches() { return machine().launches; }
void clear_launches() { machine().launches.clear(); }
const std::string& last_failure() { return machine().failure; }

}  // namespace emulator

extern "C" {

// ---- what nvcc's host code calls
void** __cudaRegisterFatBinary(void* wrapper) {
  const std::byte* data = static_cast<const FatWrapper*>(wrapper)->data;
  FatHeader header;
  std::memcpy(&header, data, sizeof header);
  const std::byte* at = data + header.header_bytes;
  const std::byte* end = at + header.bytes;
  auto image = std::make_unique<Image>();
  while (at < end) {
    FatEntry entry;
    std::memcpy(&entry, at, sizeof entry);
    const char* body = reinterpret_cast<const char*>(at + entry.header_bytes);
    if (entry.kind == ptx_kind) {
      if (entry.compressed_bytes != 0) {
        std::fprintf(stderr, "emulator: the PTX is compressed; build with --compress-mode=none\n");
        std::abort();
      }
      image->text_of[entry.capability].assign(body, strnlen(body, entry.bytes));
    }
    at += entry.header_bytes + entry.bytes;
  }
  machine().images.push_back(std::move(image));
  return reinterpret_cast<void**>(machine().images.back().get());
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) { return 1; }
void __cudaRegisterFunction(void** image, const char* host, char*, const char* name, int, uint3*, uint3*,
                            dim3*, dim3*, int*) {
  machine().kernels[host] = {reinterpret_cast<Image*>(image), name};
}
void __cudaRegisterVar(void** image, char* host, char*, const char* name, int, std::size_t, int, int) {
  machine().variables[host] = {reinterpret_cast<Image*>(image), name};
}
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, std::size_t shared, CUstream_st* stream) {
  machine().configurations.push_back({grid, block, shared, stream});
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, std::size_t* shared, void* stream) {
  const Machine::Configuration c = machine().configurations.back();
  machine().configurations.pop_back();
  *grid = c.grid, *block = c.block, *shared = c.shared, *static_cast<cudaStream_t*>(stream) = c.stream;
  return cudaSuccess;
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(function));
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t k, dim3 grid, dim3 block, void** a, std::size_t shared,
                               cudaStream_t s) {
  return launch(k, grid, block, a, shared, s);
}

// ---- launches
cudaError_t cudaLaunchKernel(const void* f, dim3 grid, dim3 block, void** a, std::size_t shared,
                             cudaStream_t s) {
  return launch(f, grid, block, a, shared, s);
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* c, const void* f, void** a) {
  return launch(f, c->gridDim, c->blockDim, a, c->dynamicSmemBytes, c->stream);
}
cudaError_t cudaFuncSetAttribute(const void* f, cudaFuncAttribute attribute, int value) {
  const auto found = machine().kernels.find(f);
  if (found == machine().kernels.end()) return failed(cudaErrorInvalidDeviceFunction);
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value < 0 || static_cast<std::size_t>(value) > shared_limit()) return failed(cudaErrorInvalidValue);
  found->second.dynamic_shared_limit = static_cast<std::size_t>(value);
  return cudaSuccess;
}

// ---- memory
cudaError_t cudaMalloc(void** p, std::size_t bytes) {
  return unless_capturing([=] {
    *p = bytes == 0 ? nullptr : std::aligned_alloc(512, (bytes + 511) / 512 * 512);
    if (bytes == 0) return cudaSuccess;
    if (*p == nullptr) return failed(cudaErrorMemoryAllocation);
    std::memset(*p, 0xff, bytes);
    machine().allocations[reinterpret_cast<std::uintptr_t>(*p)] = bytes;
    for (auto& image : machine().images) {
      if (image->module) image->module->memory.add(*p, bytes);
    }
    return cudaSuccess;
  });
}
cudaError_t cudaFree(void* p) {
  return unless_capturing([=] {
    if (p == nullptr) return cudaSuccess;
    if (machine().allocations.erase(reinterpret_cast<std::uintptr_t>(p)) == 0)
      return failed(cudaErrorInvalidValue);
    for (auto& image : machine().images) {
      if (image->module) image->module->memory.remove(p);
    }
    std::free(p);
    return cudaSuccess;
  });
}
cudaError_t cudaMallocHost(void** p, std::size_t bytes) { return cudaMalloc(p, bytes); }
cudaError_t cudaFreeHost(void* p) { return cudaFree(p); }
cudaError_t cudaMallocAsync(void** p, std::size_t bytes, cudaStream_t) { return cudaMalloc(p, bytes); }
cudaError_t cudaFreeAsync(void* p, cudaStream_t) { return cudaFree(p); }
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t s) {
  return submit(s, [=] {
    if (bytes > 0) std::memmove(to, from, bytes);
    return cudaSuccess;
  });
}
cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  return unless_capturing([=] { return cudaMemcpyAsync(to, from, bytes, kind, nullptr); });
}
cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t s) {
  return submit(s, [=] {
    if (bytes > 0) std::memset(to, value, bytes);
    return cudaSuccess;
  });
}
cudaError_t cudaMemset(void* to, int value, std::size_t bytes) {
  return unless_capturing([=] { return cudaMemsetAsync(to, value, bytes, nullptr); });
}
cudaError_t cudaGetSymbolAddress(void** p, const void* symbol) {
  const auto found = machine().variables.find(symbol);
  if (found == machine().variables.end()) return failed(cudaErrorInvalidSymbol);
  *p = reinterpret_cast<void*>(module_of(*found->second.image).globals.at(found->second.name).value);
  return cudaSuccess;
}
cudaError_t cudaMemcpyToSymbol(const void* symbol, const void* from, std::size_t bytes, std::size_t offset,
                               cudaMemcpyKind kind) {
  void* to = nullptr;
  const cudaError_t e = cudaGetSymbolAddress(&to, symbol);
  return e != cudaSuccess ? e : cudaMemcpy(static_cast<std::byte*>(to) + offset, from, bytes, kind);
}
cudaError_t cudaMemcpyFromSymbol(void* to, const void* symbol, std::size_t bytes, std::size_t offset,
                                 cudaMemcpyKind kind) {
  void* from = nullptr;
  const cudaError_t e = cudaGetSymbolAddress(&from, symbol);
  return e != cudaSuccess ? e : cudaMemcpy(to, static_cast<std::byte*>(from) + offset, bytes, kind);
}

// ---- streams, events, graphs
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned) {
  *s = reinterpret_cast<cudaStream_t>(new Stream);
  return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t* s) { return cudaStreamCreateWithFlags(s, 0); }
cudaError_t cudaStreamDestroy(cudaStream_t s) {
  delete reinterpret_cast<Stream*>(s);
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  return unless_capturing([] { return machine().broken ? failed(cudaErrorLaunchFailure) : cudaSuccess; });
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaDeviceSynchronize(); }
cudaError_t cudaStreamQuery(cudaStream_t) { return cudaDeviceSynchronize(); }
cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode) {
  if (stream_of(s).capture != nullptr) return failed(cudaErrorIllegalState);
  if (&stream_of(s) == &machine().default_stream) return failed(cudaErrorStreamCaptureUnsupported);
  machine().open_graphs.push_back(std::make_unique<Graph>());
  stream_of(s).capture = machine().open_graphs.back().get();
  ++machine().captures;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t* graph) {
  Graph* captured = std::exchange(stream_of(s).capture, nullptr);
  if (captured == nullptr) return failed(cudaErrorIllegalState);
  std::erase_if(machine().open_graphs, [=](auto& g) { return g.get() == captured && g.release(); });
  --machine().captures;
  *graph = reinterpret_cast<cudaGraph_t>(captured);
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t s, cudaStreamCaptureStatus* status) {
  *status = stream_of(s).capture != nullptr ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t*, std::size_t* count) {
  *count = reinterpret_cast<Graph*>(graph)->nodes.size();
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = reinterpret_cast<cudaGraphExec_t>(new Graph(*reinterpret_cast<Graph*>(graph)));
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t s) {
  for (const Work& work : reinterpret_cast<Graph*>(executable)->nodes) {
    if (const cudaError_t e = submit(s, work); e != cudaSuccess) return e;
  }
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete reinterpret_cast<Graph*>(graph);
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete reinterpret_cast<Graph*>(executable);
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned) {
  *e = reinterpret_cast<cudaEvent_t>(new Event);
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* e) { return cudaEventCreateWithFlags(e, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t e) {
  delete reinterpret_cast<Event*>(e);
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
  *reinterpret_cast<Event*>(e) = {std::chrono::steady_clock::now(), stream_of(s).capture};
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e,
                                unsigned) {  // in a capture: the stream joins it
  if (Graph* capture = reinterpret_cast<Event*>(e)->capture) stream_of(s).capture = capture;
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaDeviceSynchronize(); }
cudaError_t cudaEventQuery(cudaEvent_t) { return cudaDeviceSynchronize(); }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  const auto span = reinterpret_cast<Event*>(end)->at - reinterpret_cast<Event*>(begin)->at;
  *milliseconds = std::chrono::duration<float, std::milli>(span).count();
  return cudaSuccess;
}

// ---- errors and the device
cudaError_t cudaGetLastError() { return std::exchange(machine().last, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return machine().last; }
const char* cudaGetErrorName(cudaError_t e) {
  switch (e) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidDeviceFunction:
      return "cudaErrorInvalidDeviceFunction";
    case cudaErrorInvalidSymbol:
      return "cudaErrorInvalidSymbol";
    case cudaErrorIllegalState:
      return "cudaErrorIllegalState";
    case cudaErrorStreamCaptureUnsupported:
      return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
    default:
      return "another cudaError_t";
  }
}
const char* cudaGetErrorString(cudaError_t e) {
  return e == cudaErrorLaunchFailure ? machine().failure.c_str() : cudaGetErrorName(e);
}
cudaError_t cudaGetDeviceCount(int* n) { return *n = 1, cudaSuccess; }
cudaError_t cudaGetDevice(int* d) { return *d = 0, cudaSuccess; }
cudaError_t cudaSetDevice(int d) { return d == 0 ? cudaSuccess : failed(cudaErrorInvalidDevice); }
cudaError_t cudaRuntimeGetVersion(int* v) { return *v = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* v) { return *v = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const emulator::Options& o = machine().options;
  const int limit = static_cast<int>(shared_limit());
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor:
      *value = o.compute_capability / 10;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = o.compute_capability % 10;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = o.sm_count;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = 48 * 1024;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = limit;
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = limit + 1024;
      break;
    case cudaDevAttrReservedSharedMemoryPerBlock:
      *value = 1024;
      break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = limit > 100 * 1024 ? 2048 : 1536;
      break;
    case cudaDevAttrMaxRegistersPerMultiprocessor:
      *value = 65536;
      break;
    case cudaDevAttrWarpSize:
      *value = 32;
      break;
    case cudaDevAttrMaxThreadsPerBlock:
      *value = 1024;
      break;
    default:
      return failed(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int device) {
  std::memset(p, 0, sizeof *p);
  std::snprintf(p->name, sizeof p->name, "emulator");
  const auto get = [=](cudaDeviceAttr a) {
    int v = 0;
    cudaDeviceGetAttribute(&v, a, device);
    return v;
  };
  p->major = get(cudaDevAttrComputeCapabilityMajor);
  p->minor = get(cudaDevAttrComputeCapabilityMinor);
  p->multiProcessorCount = get(cudaDevAttrMultiProcessorCount);
  p->sharedMemPerBlock = static_cast<std::size_t>(get(cudaDevAttrMaxSharedMemoryPerBlock));
  p->sharedMemPerBlockOptin = static_cast<std::size_t>(get(cudaDevAttrMaxSharedMemoryPerBlockOptin));
  p->sharedMemPerMultiprocessor = static_cast<std::size_t>(get(cudaDevAttrMaxSharedMemoryPerMultiprocessor));
  p->maxThreadsPerMultiProcessor = get(cudaDevAttrMaxThreadsPerMultiProcessor);
  p->regsPerMultiprocessor = get(cudaDevAttrMaxRegistersPerMultiprocessor);
  p->maxThreadsPerBlock = get(cudaDevAttrMaxThreadsPerBlock);
  p->warpSize = get(cudaDevAttrWarpSize);
  p->totalGlobalMem = std::size_t{16} << 30;
  return cudaSuccess;
}
// Registers are ptxas' affair, so this is what threads and shared memory alone allow.
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void* f, int threads,
                                                                   std::size_t shared, unsigned) {
  const auto found = machine().kernels.find(f);
  if (found == machine().kernels.end() || threads <= 0) return failed(cudaErrorInvalidValue);
  const Symbol& kernel = found->second;
  const std::size_t bytes = shared + module_of(*kernel.image).entry(kernel.name).sharedBytes + 1024;
  const std::size_t by_threads =
      (shared_limit() > 100 * 1024 ? 2048u : 1536u) / static_cast<unsigned>(threads);
  *blocks = static_cast<int>(std::min(by_threads, (shared_limit() + 1024) / bytes));
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* f, int threads,
                                                          std::size_t shared) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, f, threads, shared, 0);
}

}  // extern "C"
