// SPDX-License-Identifier: Apache-2.0
// What tests may ask of the emulator. With HIGGS_EMULATED undefined the same tests run on a real GPU:
// options have no effect then, and launches() stays empty.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace emulator {

#ifdef HIGGS_EMULATED
/// True where kernels run on the emulator, so that counters exist.
inline constexpr bool in_use = true;
#else
inline constexpr bool in_use = false;
#endif

/// The classes in which executed warp instructions are counted.
enum class Class {
  Mma,
  MatrixMove,  // ldmatrix, stmatrix, movmatrix
  SharedLoad,
  SharedStore,
  AsyncCopy,
  GlobalLoad,
  GlobalStore,
  Atomic,
  Shuffle,  // also vote, match, redux
  Integer,  // also logic
  Floating,
  Convert,  // between number formats, where a float takes part
  Branch,
  Sync,  // barriers, fences, waits
  LocalMemory,
  Move,       // mov, cvta: mostly gone after ptxas
  Parameter,  // ld.param, ld.const, st.param
};
inline constexpr std::size_t class_count = 17;
const char* name_of(Class c);

/// What one launch did. Sectors are 32 bytes of global memory, counted for each warp request.
struct Counters {
  std::array<std::uint64_t, class_count> executed{};  // warp instructions of each class
  std::uint64_t sectors_read = 0, sectors_written = 0, bytes_read = 0, bytes_written = 0;
  std::uint64_t shared_passes = 0;        // with bank conflicts
  std::uint64_t shared_passes_ideal = 0;  // the same requests without conflicts

  std::uint64_t operator[](Class c) const { return executed[static_cast<std::size_t>(c)]; }
  std::uint64_t instructions() const {
    std::uint64_t sum = 0;
    for (std::uint64_t n : executed) sum += n;
    return sum;
  }
  /// Instructions without those that ptxas removes or that only fetch parameters.
  std::uint64_t work() const { return instructions() - (*this)[Class::Move] - (*this)[Class::Parameter]; }
};

/// One kernel launch, in the order of the program.
struct Launch {
  std::string kernel;  // mangled
  std::array<unsigned, 3> grid{}, block{};
  std::size_t shared_bytes = 0;  // static and dynamic
  Counters counters;

  /// Sectors of one allocation, named by its first byte.
  struct Traffic {
    const void* allocation;
    std::uint64_t sectors_read, sectors_written;
  };
  std::vector<Traffic> traffic;
  std::uint64_t sectors_read(const void* allocation) const {
    for (const Traffic& t : traffic) {
      if (t.allocation == allocation) return t.sectors_read;
    }
    return 0;
  }
};

/// One instruction that asked for memory: requests of global memory, and of shared memory with the passes they took.
struct Line {
  int source_line;
  std::string text;
  std::uint64_t requests, sectors, bytes, shared_requests, passes, passes_ideal;
};

/// How products of mma are summed.
enum class MmaRounding {
  Exact,   // in double, one rounding to the destination
  Ampere,  // 24 fraction bits kept, truncated, as published for sm_80 to sm_89
  Hopper,  // 25 fraction bits, for sm_90 and later
};

/// How later launches run, and what the device claims to be.
struct Options {
  int sm_count = 108;
  int compute_capability = 80;
  std::uint32_t seed = 0;              // not 0: warps in random order, lanes of a warp run apart
  bool check_races = false;            // a launch with a race fails
  bool count = true;                   // fill Launch::counters
  bool refuse_cold = false;            // the first use of a kernel fails while a stream is captured
  bool late = false;                   // streams do their work only when something waits for it, not before
  std::uint64_t max_steps = 1u << 30;  // warp instructions of a block before the launch fails; 0: no limit
  unsigned resident_blocks = 1;        // blocks that run interleaved
  MmaRounding mma = MmaRounding::Exact;
  std::uint64_t memory_bytes = std::uint64_t{16} << 30;  // memory of the device
  bool coarse_memory = false;  // allocations take multiples of 512 bytes, those beyond 1 MiB of 2 MiB
  double launch_seconds = 0;   // not 0: events tell time by kernels alone, each of which takes so long
};

#ifdef HIGGS_EMULATED
Options& options();
/// All launches since the program began or since clear_launches().
const std::vector<Launch>& launches();
void clear_launches();
/// How often memory of the device or page-locked memory was allocated since the program began.
std::uint64_t allocations();
/// The most memory of the device that was in use at one time since clear_most_memory().
std::uint64_t most_memory();
void clear_most_memory();
/// The memory instructions of the last launch.
std::vector<Line> last_lines();
/// Why the last failed launch failed: kernel, PTX line, source line, block, warp, lane.
const std::string& last_failure();
/// A failed launch breaks the context, as on a GPU; this mends it.
void forget_failure();
#else
inline Options& options() {
  static Options unused;
  return unused;
}
inline const std::vector<Launch>& launches() {
  static const std::vector<Launch> none;
  return none;
}
inline void clear_launches() {}
inline std::uint64_t allocations() { return 0; }
inline std::uint64_t most_memory() { return 0; }
inline void clear_most_memory() {}
inline std::vector<Line> last_lines() { return {}; }
inline const std::string& last_failure() {
  static const std::string none;
  return none;
}
inline void forget_failure() {}
#endif

}  // namespace emulator
