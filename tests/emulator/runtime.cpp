// SPDX-License-Identifier: Apache-2.0
// Stands in for libcudart: a program that nvcc built runs its kernels on the emulator. Everything happens at once and
// in the order of the calls; a stream matters only for what is captured from it. Under Options::late a stream keeps its
// work until something waits for it, as late as NVIDIA's "API synchronization behavior" allows.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "emulator.hpp"
#include "launch.hpp"
#include "module.hpp"
#include "report.hpp"

namespace {

using Work = std::function<cudaError_t()>;
struct Graph {
  std::vector<Work> nodes;
  bool ends_with_kernel = true;  // whether the last node is a kernel's; there may be none
};
struct Stream {
  Graph* capture = nullptr;  // what is being recorded
  bool blocking = true;      // whether the legacy stream waits for it, and it for the legacy stream
  std::deque<Work> pending;  // the legacy stream has that of blocking streams too, in the order of the calls
};
struct Event {
  double at = 0;  // seconds
  Graph* capture = nullptr;
  Stream* stream = nullptr;  // where it was recorded
};

struct Image {  // one fat binary; it registers before main, so its PTX is parsed at first use
  std::map<unsigned, std::string> text_of;  // compute capability * 10 -> PTX
  std::unique_ptr<emulator::Module> module;
};
struct Symbol {
  Image* image = nullptr;
  std::string name;
  std::size_t dynamic_shared_limit = 48 * 1024;
  bool used = false;
};

// What a program ran in all; told at its end if HIGGS_EMULATOR_SUMMARY is set.
struct Totals {
  std::set<std::string> kernels;
  std::uint64_t launches = 0, in_random_schedules = 0, instructions = 0;

  ~Totals() {
    if (std::getenv("HIGGS_EMULATOR_SUMMARY") == nullptr) return;
    const auto number = [](std::uint64_t v) { return static_cast<unsigned long long>(v); };
    std::printf(
        "emulator: %llu launches of %zu kernels, %llu of them in random schedules with race checks; "
        "%llu warp instructions\n",
        number(launches), kernels.size(), number(in_random_schedules), number(instructions));
  }
};

struct Machine {
  std::vector<std::unique_ptr<Image>> images;
  std::map<const void*, Symbol> kernels, variables;
  emulator::Memory memory;
  std::vector<std::unique_ptr<Graph>> open_graphs;
  struct Configuration {
    dim3 grid, block;
    std::size_t shared;
    cudaStream_t stream;
  };
  std::vector<Configuration> configurations;
  Stream default_stream;
  std::set<Stream*> streams;  // all others
  int captures = 0;
  std::uint64_t number = 0, may_run_since = 0;  // the last launch; the first one that nothing waited for
  cudaError_t last = cudaSuccess;
  bool broken = false;  // a kernel failed: as on a GPU, every later call says so
  emulator::Options options;
  std::vector<emulator::Launch> launches;
  std::optional<emulator::Grid> last_grid;
  std::string failure;
  std::uint64_t most_memory = 0;  // bytes in use at one time
  Totals totals;

  Machine() { options.late = std::getenv("HIGGS_EMULATOR_LATE") != nullptr; }
};
Machine& machine() {
  static Machine m;
  return m;
}

// One call of the runtime. Threads take turns at calls in the order in which they come: so threads that change the same
// state with one call and rely on it in the next get into each other's way as often as they can.
class Turn {
 public:
  Turn() {
    if (depth_++ > 0) return;  // a call within a call
    const unsigned mine = tickets_++;
    for (unsigned now = served_; now != mine; now = served_) served_.wait(now);
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;
  ~Turn() {
    if (--depth_ > 0) return;
    ++served_;
    served_.notify_all();
  }

 private:
  static inline thread_local int depth_ = 0;
  static inline std::atomic<unsigned> tickets_ = 0, served_ = 0;
};

cudaError_t failed(cudaError_t e) { return machine().last = e; }

// The stream of an event; the default stream, where nothing is to wait for, if it is gone.
Stream* stream_of_event(cudaEvent_t e) {
  Stream* stream = reinterpret_cast<Event*>(e)->stream;
  return machine().streams.contains(stream) ? stream : &machine().default_stream;
}

Stream& stream_of(cudaStream_t s) {
  const bool is_default = s == nullptr || s == cudaStreamLegacy || s == cudaStreamPerThread;
  return is_default ? machine().default_stream : *reinterpret_cast<Stream*>(s);
}

std::deque<Work>& pending_of(Stream& s) { return s.blocking ? machine().default_stream.pending : s.pending; }

// Does all work of a stream, up to the first that fails.
cudaError_t finish(Stream& stream) {
  std::deque<Work>& pending = pending_of(stream);
  while (!pending.empty()) {
    const Work work = std::move(pending.front());
    pending.pop_front();
    if (const cudaError_t e = work(); e != cudaSuccess) return failed(e);
  }
  return machine().broken ? failed(cudaErrorLaunchFailure) : cudaSuccess;
}
// The legacy stream comes last: what should have waited for it did not.
cudaError_t finish_all() {
  for (Stream* s : machine().streams) {
    if (const cudaError_t e = s->blocking ? cudaSuccess : finish(*s); e != cudaSuccess) return e;
  }
  const cudaError_t e = finish(machine().default_stream);
  machine().may_run_since = 0;  // no launch runs any more
  return e;
}

// Runs `work` now, or leaves it to the stream, or records it if the stream is being captured.
cudaError_t submit(cudaStream_t stream, Work work, bool is_kernel = false) {
  Stream& s = stream_of(stream);
  if (Graph* graph = s.capture) {
    graph->nodes.push_back(std::move(work));
    graph->ends_with_kernel = is_kernel;
    return cudaSuccess;
  }
  pending_of(s).push_back(std::move(work));
  return machine().options.late ? cudaSuccess : finish(s);
}

// Bytes of the device that are not free.
std::uint64_t memory_in_use() {
  if (!machine().options.coarse_memory) return machine().memory.bytes();
  std::uint64_t sum = 0;
  for (const auto& [address, range] : machine().memory.ranges()) {
    const std::uint64_t bytes = range.end - range.begin, unit = bytes > 1 << 20 ? 2 << 20 : 512;
    sum += (bytes + unit - 1) / unit * unit;
  }
  return sum;
}

// The allocation that holds a byte; null for pageable memory of the host.
emulator::Range* range_of(const void* p) {
  return machine().memory.find(reinterpret_cast<std::uintptr_t>(p), 1);
}

// What may not happen while any stream is captured: allocation and waiting.
cudaError_t unless_capturing(const Work& work) {
  return machine().captures > 0 ? failed(cudaErrorStreamCaptureUnsupported) : work();
}

emulator::Module& module_of(Image& image) {
  if (!image.module) {
    const auto limit = static_cast<unsigned>(machine().options.compute_capability);
    auto text = image.text_of.upper_bound(limit);
    if (text == image.text_of.begin())
      emulator::fail("no PTX for compute capability " + std::to_string(limit));
    image.module = std::make_unique<emulator::Module>((--text)->second, machine().memory);
  }
  return *image.module;
}
emulator::Program& program_of(const Symbol& kernel) { return module_of(*kernel.image).kernel(kernel.name); }

std::size_t shared_limit() {  // bytes a block may ask for
  const int cc = machine().options.compute_capability;
  return (cc == 80 ? 163u : cc == 90 || cc == 100 ? 227u : 99u) * 1024u;
}

void record_launch(const emulator::Grid& grid) {
  emulator::Launch record{.kernel = grid.program->name,
                          .grid = {grid.grid.x, grid.grid.y, grid.grid.z},
                          .block = {grid.block.x, grid.block.y, grid.block.z},
                          .shared_bytes = grid.program->static_shared_bytes + grid.dynamic_shared_bytes,
                          .counters = emulator::counters_of(grid),
                          .traffic = {}};
  for (const auto& [address, range] : machine().memory.ranges()) {
    if (range.sectors_read + range.sectors_written == 0) continue;
    record.traffic.push_back(
        {reinterpret_cast<const void*>(address), range.sectors_read, range.sectors_written});
  }
  Totals& totals = machine().totals;
  totals.kernels.insert(record.kernel);
  ++totals.launches;
  totals.in_random_schedules += machine().options.seed != 0 && machine().options.check_races ? 1 : 0;
  totals.instructions += record.counters.instructions();
  machine().launches.push_back(std::move(record));
  static const bool report = std::getenv("HIGGS_EMULATOR_REPORT") != nullptr;
  if (report) {
    std::fputs(emulator::report_of(machine().launches.back(), emulator::lines_of(grid)).c_str(), stderr);
  }
}

// What the call of a launch is refused for, before any of it runs.
cudaError_t check_launch(const Symbol& kernel, dim3 grid, dim3 block, std::size_t shared) {
  const emulator::Program& program = program_of(kernel);
  const std::uint64_t threads = std::uint64_t{block.x} * block.y * block.z;
  const bool empty = grid.x == 0 || grid.y == 0 || grid.z == 0;
  if (threads == 0 || threads > program.max_threads || empty || grid.y > 65535 || grid.z > 65535)
    return cudaErrorInvalidConfiguration;
  if (shared > kernel.dynamic_shared_limit || shared + program.static_shared_bytes > shared_limit())
    return cudaErrorInvalidValue;
  return cudaSuccess;
}

// `early`: by programmatic dependent launch, so that the launches in front may still run.
cudaError_t execute(const Symbol& kernel, dim3 grid, dim3 block, const std::vector<const void*>& arguments,
                    std::size_t shared, bool early) {
  Machine& m = machine();
  if (m.broken) return cudaErrorLaunchFailure;
  try {
    emulator::Program& program = program_of(kernel);
    emulator::Grid g{.program = &program,
                     .options = &m.options,
                     .memory = &m.memory,
                     .grid = {grid.x, grid.y, grid.z},
                     .block = {block.x, block.y, block.z},
                     .dynamic_shared_bytes = static_cast<unsigned>(shared),
                     .tallies = {},
                     .races = {},
                     .shadow = {}};
    for (auto& [address, range] : m.memory.ranges()) range.sectors_read = range.sectors_written = 0;
    g.number = ++m.number;
    if (early && m.may_run_since != 0)
      g.may_run_since = m.may_run_since;
    else
      m.may_run_since = g.number;
    emulator::run_grid(g, program, arguments);
    record_launch(g);
    m.last_grid = std::move(g);
    if (!m.last_grid->races.empty()) throw std::runtime_error("race: " + m.last_grid->races.begin()->first);
  } catch (const std::exception& x) {
    m.failure = kernel.name + ": " + x.what();
    m.broken = true;
    std::fprintf(stderr, "emulator: %s\n", m.failure.c_str());
    return cudaErrorLaunchFailure;
  }
  return cudaSuccess;
}

cudaError_t does_not_load(const Symbol& kernel, const std::exception& why) {
  machine().failure = kernel.name + ": " + why.what();
  std::fprintf(stderr, "emulator: %s\n", machine().failure.c_str());
  return failed(cudaErrorInvalidDeviceFunction);
}

// The kernel of a function, which this use loads; null where the runtime may refuse that.
Symbol* use_kernel(const void* function) {
  const auto found = machine().kernels.find(function);
  if (found == machine().kernels.end()) return failed(cudaErrorInvalidDeviceFunction), nullptr;
  Symbol& kernel = found->second;
  if (!kernel.used && machine().captures > 0 && machine().options.refuse_cold)
    return failed(cudaErrorStreamCaptureUnsupported), nullptr;
  kernel.used = true;
  return &kernel;
}

cudaError_t launch(const void* function, dim3 grid, dim3 block, void** arguments, std::size_t shared,
                   cudaStream_t stream, bool early = false) {
  const Symbol* const used = use_kernel(function);
  if (used == nullptr) return machine().last;
  const Symbol& kernel = *used;
  std::vector<std::vector<std::byte>> values;
  try {
    for (const emulator::Parameter& p : program_of(kernel).parameters) {
      const auto* from = static_cast<const std::byte*>(arguments[values.size()]);
      values.emplace_back(from, from + p.bytes);
    }
    if (const cudaError_t e = check_launch(kernel, grid, block, shared); e != cudaSuccess) return failed(e);
  } catch (const std::exception& x) {
    return does_not_load(kernel, x);
  }
  // Programmatic edges of a graph lead from kernels to kernels alone (CUDA Runtime API, cudaGraphDependencyType).
  const Graph* const graph = stream_of(stream).capture;
  if (early && graph != nullptr && !graph->ends_with_kernel) return failed(cudaErrorStreamCaptureUnsupported);
  Work run = [&kernel, grid, block, shared, early, values = std::move(values)] {
    std::vector<const void*> pointers;
    for (const auto& v : values) pointers.push_back(v.data());
    return execute(kernel, grid, block, pointers, shared, early);
  };
  return submit(stream, std::move(run), true);
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

Options& options() { return machine().options; }
const std::vector<Launch>& launches() { return machine().launches; }
void clear_launches() { machine().launches.clear(); }
std::uint64_t allocations() { return machine().memory.added(); }
std::uint64_t most_memory() { return machine().most_memory; }
void clear_most_memory() { machine().most_memory = memory_in_use(); }
const std::string& last_failure() { return machine().failure; }
std::vector<Line> last_lines() {
  return machine().last_grid ? lines_of(*machine().last_grid) : std::vector<Line>{};
}
void forget_failure() {
  machine().broken = false;
  machine().last = cudaSuccess;
  machine().default_stream.pending.clear();
  for (Stream* s : machine().streams) s->pending.clear();
}

}  // namespace emulator

extern "C" {

// ---- what nvcc's host code calls
void** __cudaRegisterFatBinary(void* wrapper) {
  const Turn turn;
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
  const Turn turn;
  machine().kernels[host] = {reinterpret_cast<Image*>(image), name};
}
void __cudaRegisterVar(void** image, char* host, char*, const char* name, int, std::size_t, int, int) {
  const Turn turn;
  machine().variables[host] = {reinterpret_cast<Image*>(image), name};
}
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, std::size_t shared, CUstream_st* stream) {
  const Turn turn;
  machine().configurations.push_back({grid, block, shared, stream});
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, std::size_t* shared, void* stream) {
  const Turn turn;
  const Machine::Configuration c = machine().configurations.back();
  machine().configurations.pop_back();
  *grid = c.grid, *block = c.block, *shared = c.shared, *static_cast<cudaStream_t*>(stream) = c.stream;
  return cudaSuccess;
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  const Turn turn;
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(function));
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t k, dim3 grid, dim3 block, void** a, std::size_t shared,
                               cudaStream_t s) {
  const Turn turn;
  return launch(k, grid, block, a, shared, s);
}

// ---- launches
cudaError_t cudaLaunchKernel(const void* f, dim3 grid, dim3 block, void** a, std::size_t shared,
                             cudaStream_t s) {
  const Turn turn;
  return launch(f, grid, block, a, shared, s);
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* c, const void* f, void** a) {
  const Turn turn;
  bool early = false;
  for (unsigned i = 0; i < c->numAttrs; ++i) {
    const cudaLaunchAttribute& attribute = c->attrs[i];
    const bool hopper = machine().options.compute_capability >= 90;
    if (attribute.id == cudaLaunchAttributeProgrammaticStreamSerialization) {
      if (!hopper) return failed(cudaErrorNotSupported);
      early = attribute.val.programmaticStreamSerializationAllowed != 0;
    } else if (attribute.id == cudaLaunchAttributeClusterDimension) {
      const auto& cluster = attribute.val.clusterDim;
      if (!hopper || cluster.x * cluster.y * cluster.z != 1) return failed(cudaErrorNotSupported);
    } else {
      return failed(cudaErrorNotSupported);
    }
  }
  return launch(f, c->gridDim, c->blockDim, a, c->dynamicSmemBytes, c->stream, early);
}
cudaError_t cudaFuncSetAttribute(const void* f, cudaFuncAttribute attribute, int value) {
  const Turn turn;
  Symbol* const kernel = use_kernel(f);
  if (kernel == nullptr) return machine().last;
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  try {
    const std::size_t own = program_of(*kernel).static_shared_bytes;
    if (value < 0 || static_cast<std::size_t>(value) + own > shared_limit())
      return failed(cudaErrorInvalidValue);
  } catch (const std::exception& x) {
    return does_not_load(*kernel, x);
  }
  kernel->dynamic_shared_limit = static_cast<std::size_t>(value);
  return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* facts, const void* f) {
  const Turn turn;
  const Symbol* const used = use_kernel(f);
  if (used == nullptr) return machine().last;
  const Symbol& kernel = *used;
  try {
    const emulator::Program& program = program_of(kernel);
    std::memset(facts, 0, sizeof *facts);
    facts->maxThreadsPerBlock = static_cast<int>(program.max_threads);
    facts->ptxVersion = program.architecture;
    facts->sharedSizeBytes = program.static_shared_bytes;
    facts->localSizeBytes = program.local_bytes;
    facts->maxDynamicSharedSizeBytes = static_cast<int>(kernel.dynamic_shared_limit);
  } catch (const std::exception& x) {
    return does_not_load(kernel, x);
  }
  return cudaSuccess;
}

// ---- memory
cudaError_t cudaMalloc(void** p, std::size_t bytes) {
  const Turn turn;
  return unless_capturing([=] {
    *p = bytes == 0 ? nullptr : std::aligned_alloc(512, (bytes + 511) / 512 * 512);
    if (bytes == 0) return cudaSuccess;
    if (memory_in_use() + bytes > machine().options.memory_bytes) {
      std::free(std::exchange(*p, nullptr));
      return failed(cudaErrorMemoryAllocation);
    }
    if (*p == nullptr) return failed(cudaErrorMemoryAllocation);
    std::memset(*p, 0xff, bytes);
    machine().memory.add(*p, bytes);
    machine().most_memory = std::max(machine().most_memory, memory_in_use());
    return cudaSuccess;
  });
}
cudaError_t cudaFree(void* p) {
  const Turn turn;
  return unless_capturing([=] {
    if (p == nullptr) return cudaSuccess;
    if (const cudaError_t e = finish_all(); e != cudaSuccess && !machine().broken) return e;
    if (!machine().memory.remove(p)) return failed(cudaErrorInvalidValue);
    std::free(p);
    return cudaSuccess;
  });
}
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  const Turn turn;
  *total = machine().options.memory_bytes;
  *free = *total - std::min<std::size_t>(*total, memory_in_use());
  return cudaSuccess;
}
cudaError_t cudaMallocHost(void** p, std::size_t bytes) {
  const Turn turn;
  const cudaError_t e = cudaMalloc(p, bytes);
  if (e == cudaSuccess && *p != nullptr) range_of(*p)->on_host = true;
  return e;
}
cudaError_t cudaFreeHost(void* p) { return cudaFree(p); }
cudaError_t cudaMallocAsync(void** p, std::size_t bytes, cudaStream_t) { return cudaMalloc(p, bytes); }
cudaError_t cudaFreeAsync(void* p, cudaStream_t) { return cudaFree(p); }
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t s) {
  const Turn turn;
  const Work copy = [=] {
    machine().may_run_since = 0;
    if (bytes > 0) std::memmove(to, from, bytes);
    return cudaSuccess;
  };
  if (stream_of(s).capture != nullptr || !machine().options.late || bytes == 0) return submit(s, copy);
  if (range_of(to) == nullptr) {
    const cudaError_t e = finish(stream_of(s));
    return e == cudaSuccess ? copy() : e;
  }
  if (range_of(from) != nullptr) return submit(s, copy);
  const auto* begin =
      static_cast<const std::byte*>(from);  // pageable memory is copied at once, then transferred
  return submit(s, [to, staged = std::vector<std::byte>(begin, begin + bytes)] {
    std::memcpy(to, staged.data(), staged.size());
    return cudaSuccess;
  });
}
cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  const Turn turn;
  return unless_capturing([=] {
    Stream& legacy = machine().default_stream;
    if (const cudaError_t e = finish(legacy); e != cudaSuccess) return e;
    const cudaError_t e = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
    const auto is_pinned = [](const void* p) { return range_of(p) != nullptr && range_of(p)->on_host; };
    return e == cudaSuccess && (is_pinned(to) || is_pinned(from)) ? finish(legacy) : e;
  });
}
cudaError_t cudaMemcpy2D(void* to, std::size_t to_step, const void* from, std::size_t from_step,
                         std::size_t row_bytes, std::size_t rows, cudaMemcpyKind kind) {
  for (std::size_t r = 0; r < rows; ++r) {
    const cudaError_t e = cudaMemcpy(static_cast<std::byte*>(to) + r * to_step,
                                     static_cast<const std::byte*>(from) + r * from_step, row_bytes, kind);
    if (e != cudaSuccess) return e;
  }
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t s) {
  const Turn turn;
  return submit(s, [=] {
    machine().may_run_since = 0;
    if (bytes > 0) std::memset(to, value, bytes);
    return cudaSuccess;
  });
}
cudaError_t cudaMemset(void* to, int value, std::size_t bytes) {
  const Turn turn;
  return unless_capturing([=] { return cudaMemsetAsync(to, value, bytes, nullptr); });
}
cudaError_t cudaGetSymbolAddress(void** p, const void* symbol) {
  const Turn turn;
  const auto found = machine().variables.find(symbol);
  if (found == machine().variables.end()) return failed(cudaErrorInvalidSymbol);
  *p = module_of(*found->second.image).variable(found->second.name);
  return cudaSuccess;
}
cudaError_t cudaMemcpyToSymbol(const void* symbol, const void* from, std::size_t bytes, std::size_t offset,
                               cudaMemcpyKind kind) {
  const Turn turn;
  void* to = nullptr;
  const cudaError_t e = cudaGetSymbolAddress(&to, symbol);
  return e != cudaSuccess ? e : cudaMemcpy(static_cast<std::byte*>(to) + offset, from, bytes, kind);
}
cudaError_t cudaMemcpyFromSymbol(void* to, const void* symbol, std::size_t bytes, std::size_t offset,
                                 cudaMemcpyKind kind) {
  const Turn turn;
  void* from = nullptr;
  const cudaError_t e = cudaGetSymbolAddress(&from, symbol);
  return e != cudaSuccess ? e : cudaMemcpy(to, static_cast<std::byte*>(from) + offset, bytes, kind);
}

// ---- streams, events, graphs
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned flags) {
  const Turn turn;
  auto* made = new Stream{.capture = nullptr, .blocking = flags != cudaStreamNonBlocking, .pending = {}};
  machine().streams.insert(made);
  *s = reinterpret_cast<cudaStream_t>(made);
  return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t* s) { return cudaStreamCreateWithFlags(s, 0); }
cudaError_t cudaStreamDestroy(cudaStream_t s) {
  const Turn turn;
  const cudaError_t e = finish(stream_of(s));
  machine().streams.erase(&stream_of(s));
  delete &stream_of(s);
  return e;
}
cudaError_t cudaDeviceSynchronize() {
  const Turn turn;
  return unless_capturing(finish_all);
}
cudaError_t cudaStreamSynchronize(cudaStream_t s) {
  const Turn turn;
  return unless_capturing([=] {
    const cudaError_t e = finish(stream_of(s));
    machine().may_run_since = 0;
    return e;
  });
}
// A little of the work is done at each question, so that a program that polls comes to its end.
cudaError_t cudaStreamQuery(cudaStream_t s) {
  const Turn turn;
  return unless_capturing([=] {
    std::deque<Work>& pending = pending_of(stream_of(s));
    if (pending.empty()) return finish(stream_of(s));
    const Work work = std::move(pending.front());
    pending.pop_front();
    const cudaError_t e = work();
    return failed(e == cudaSuccess ? cudaErrorNotReady : e);
  });
}
cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode) {
  const Turn turn;
  if (stream_of(s).capture != nullptr) return failed(cudaErrorIllegalState);
  if (&stream_of(s) == &machine().default_stream) return failed(cudaErrorStreamCaptureUnsupported);
  machine().open_graphs.push_back(std::make_unique<Graph>());
  stream_of(s).capture = machine().open_graphs.back().get();
  ++machine().captures;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t* graph) {
  const Turn turn;
  Graph* captured = std::exchange(stream_of(s).capture, nullptr);
  if (captured == nullptr) return failed(cudaErrorIllegalState);
  std::erase_if(machine().open_graphs, [=](auto& g) { return g.get() == captured && g.release(); });
  --machine().captures;
  *graph = reinterpret_cast<cudaGraph_t>(captured);
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t s, cudaStreamCaptureStatus* status) {
  const Turn turn;
  *status = stream_of(s).capture != nullptr ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t*, std::size_t* count) {
  const Turn turn;
  *count = reinterpret_cast<Graph*>(graph)->nodes.size();
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  const Turn turn;
  *executable = reinterpret_cast<cudaGraphExec_t>(new Graph(*reinterpret_cast<Graph*>(graph)));
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t s) {
  const Turn turn;
  for (const Work& work : reinterpret_cast<Graph*>(executable)->nodes) {
    if (const cudaError_t e = submit(s, work); e != cudaSuccess) return e;
  }
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  const Turn turn;
  delete reinterpret_cast<Graph*>(graph);
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  const Turn turn;
  delete reinterpret_cast<Graph*>(executable);
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned) {
  const Turn turn;
  *e = reinterpret_cast<cudaEvent_t>(new Event);
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* e) { return cudaEventCreateWithFlags(e, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t e) {
  const Turn turn;
  delete reinterpret_cast<Event*>(e);
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
  const Turn turn;
  using Seconds = std::chrono::duration<double>;
  const double each = machine().options.launch_seconds;
  const double now = each != 0 ? each * static_cast<double>(machine().number)
                               : Seconds(std::chrono::steady_clock::now().time_since_epoch()).count();
  *reinterpret_cast<Event*>(e) = {now, stream_of(s).capture, &stream_of(s)};
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t e) {
  const Turn turn;
  return unless_capturing([=] { return finish(*stream_of_event(e)); });
}
cudaError_t cudaEventQuery(cudaEvent_t e) {
  const Turn turn;
  return cudaStreamQuery(reinterpret_cast<cudaStream_t>(stream_of_event(e)));
}
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned) {
  const Turn turn;
  Graph* capture = reinterpret_cast<Event*>(e)->capture;
  if (capture == nullptr) return finish(*stream_of_event(e));
  stream_of(s).capture = capture;  // the stream joins it
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  const Turn turn;
  const double seconds = reinterpret_cast<Event*>(end)->at - reinterpret_cast<Event*>(begin)->at;
  *milliseconds = static_cast<float>(1e3 * seconds);
  return cudaSuccess;
}

// ---- errors and the device
cudaError_t cudaGetLastError() {
  const Turn turn;
  return std::exchange(machine().last, cudaSuccess);
}
cudaError_t cudaPeekAtLastError() {
  const Turn turn;
  return machine().last;
}
const char* cudaGetErrorName(cudaError_t e) {
  const Turn turn;
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
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorNotReady:
      return "cudaErrorNotReady";
    case cudaErrorNotSupported:
      return "cudaErrorNotSupported";
    default:
      return "another cudaError_t";
  }
}
const char* cudaGetErrorString(cudaError_t e) {
  const Turn turn;
  return e == cudaErrorLaunchFailure ? machine().failure.c_str() : cudaGetErrorName(e);
}
cudaError_t cudaGetDeviceCount(int* n) { return *n = 1, cudaSuccess; }
cudaError_t cudaGetDevice(int* d) { return *d = 0, cudaSuccess; }
cudaError_t cudaSetDevice(int d) { return d == 0 ? cudaSuccess : failed(cudaErrorInvalidDevice); }
cudaError_t cudaRuntimeGetVersion(int* v) { return *v = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* v) { return *v = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const Turn turn;
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
    case cudaDevAttrL2CacheSize:
      *value = 40 << 20;
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
  const Turn turn;
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
  p->totalGlobalMem = machine().options.memory_bytes;
  return cudaSuccess;
}
// Registers are ptxas' affair, so this is what threads and shared memory alone allow.
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void* f, int threads,
                                                                   std::size_t shared, unsigned) {
  const Turn turn;
  const auto found = machine().kernels.find(f);
  if (found == machine().kernels.end() || threads <= 0) return failed(cudaErrorInvalidValue);
  const Symbol& kernel = found->second;
  const std::size_t bytes = shared + program_of(kernel).static_shared_bytes + 1024;
  const std::size_t by_threads =
      (shared_limit() > 100 * 1024 ? 2048u : 1536u) / static_cast<unsigned>(threads);
  *blocks = static_cast<int>(std::min(by_threads, (shared_limit() + 1024) / bytes));
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* f, int threads,
                                                          std::size_t shared) {
  const Turn turn;
  return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, f, threads, shared, 0);
}

}  // extern "C"
