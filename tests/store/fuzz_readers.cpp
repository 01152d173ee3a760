// SPDX-License-Identifier: Apache-2.0
// Feeds hostile files to every reader: each must be read or refused with FormatError or IoError, without
// undefined behaviour and without a large allocation.
//
//     clang++ -std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined -DHIGGS_LIBFUZZER -I include
//       tests/store/fuzz_readers.cpp -o fuzz && ./fuzz -malloc_limit_mb=64 CORPUS     (./fuzz --seeds CORPUS
//       makes one)
//
// Without -DHIGGS_LIBFUZZER it is a program of its own that mutates the same seeds: --seconds N, --seed N.
#include "checkpoint_example.hpp"
#include "gguf_builder.hpp"
#include "temporary_folder.hpp"

#include <higgs/codes/registry.hpp>
#include <higgs/core/random.hpp>
#include <higgs/store/checkpoint.hpp>
#include <higgs/store/checkpoint_writer.hpp>
#include <higgs/store/gguf.hpp>
#include <higgs/store/json.hpp>
#include <higgs/store/tensor_source.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace {

void read_all(const higgs::GgufArray& array);
void read_all(const higgs::GgufValue& value) {
  if (const auto* array = std::get_if<higgs::GgufArray>(&value)) read_all(*array);
}
void read_all(const higgs::GgufArray& array) {
  for (std::uint64_t i = 0; i < array.size(); ++i) read_all(array[i]);
}

// The first and the last row of every tensor.
void read_all(const higgs::TensorSource& source) {
  for (const higgs::SourceTensor& tensor : source.tensors()) {
    std::uint8_t sum = 0;
    for (const std::uint8_t byte : tensor.data) sum = static_cast<std::uint8_t>(sum + byte);
    static volatile std::uint8_t sink;
    sink = static_cast<std::uint8_t>(sink + sum);
    if (!tensor.readable() || tensor.rows() == 0) continue;
    std::vector<float> row(static_cast<std::size_t>(tensor.cols()));
    tensor.read_rows(0, 1, row);
    tensor.read_rows(tensor.rows() - 1, 1, row);
  }
}

void read_all(const higgs::Checkpoint& checkpoint) {
  for (const higgs::CheckpointLayer& layer : checkpoint.layers())
    std::visit(
        [](const auto& matrix) {
          for (const std::int64_t row : {std::int64_t{0}, matrix.rows() - 1})
            if (row >= 0 && row < matrix.rows() &&
                (matrix.row_codes(row).size() != static_cast<std::size_t>(matrix.row_bytes()) ||
                 matrix.row_scales(row).size() != static_cast<std::size_t>(matrix.layout.groups())))
              std::abort();
        },
        checkpoint.load(layer.name));
}

template <class Action>
void accept_or_refuse(Action&& action) {
  try {
    action();
  } catch (const higgs::FormatError&) {
  } catch (const higgs::IoError&) {
  }
}

// Whatever the bytes claim to be.
void read_hostile(std::string_view bytes) {
  static const TemporaryFolder folder;
  const bool json = !bytes.empty() && bytes[0] == '{';
  const std::filesystem::path path = folder / (json ? "a.json" : "a");
  std::filesystem::remove(path);  // some file systems go to the disk when a file is overwritten
  write_file(path, std::string(bytes));
  if (json) {
    accept_or_refuse([&] { higgs::Json::parse(bytes, "json"); });
    accept_or_refuse([&] { higgs::detail::parse_layer("w", bytes, "layer"); });
  }
  accept_or_refuse([&] { read_all(higgs::TensorSource::open(path)); });
  if (higgs::GgufFile::has_magic({reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size()}))
    accept_or_refuse([&] {
      const higgs::GgufFile file(path);
      for (const auto& [key, value] : file.metadata()) read_all(value);
    });
  else
    accept_or_refuse([&] { read_all(higgs::Checkpoint::open(path)); });
}

// Small well-formed files to start from.
std::vector<std::string> seeds() {
  const TemporaryFolder folder;
  std::vector<std::string> out;
  GgufBuilder gguf;
  gguf.add_value("general.alignment", 4, raw<std::uint32_t>(32));
  gguf.add_value("n", 10, raw<std::uint64_t>(7));
  gguf.add_value("t", 9, raw<std::uint32_t>(8) + raw<std::uint64_t>(2) + gguf_text("x") + gguf_text("yz"));
  gguf.add_value(
      "a", 9,
      raw<std::uint32_t>(9) + raw<std::uint64_t>(1) + raw<std::uint32_t>(3) + raw<std::uint64_t>(2) + "abcd");
  for (std::uint32_t type = 0; type <= higgs::detail::gguf_types.size();
       ++type) {  // and one that is not known
    const higgs::BlockFormat* format = higgs::detail::gguf_format(type);
    gguf.add_tensor("w" + std::to_string(type), {static_cast<std::uint64_t>(format ? format->block : 8), 2},
                    type, std::string(static_cast<std::size_t>(format ? 2 * format->bytes : 8), 'x'));
  }
  out.push_back(gguf.build());

  higgs::SafetensorsWriter plain(
      folder / "plain",
      {{"x", higgs::DType::F16, {2, 3}}, {"y", higgs::DType::I8, {0}}, {"z", higgs::DType::F64, {}}},
      {{"k", "v"}});
  plain.write("x", 0, bytes_of("0123456789ab"));
  plain.write("z", 0, bytes_of("01234567"));
  plain.commit();
  out.push_back(read_file(folder / "plain"));

  const std::string scaled_header =
      R"({"x.weight":{"dtype":"F8_E4M3","shape":[3,5],"data_offsets":[0,15]},)"
      R"("x.weight_scale_inv":{"dtype":"F32","shape":[3,1],"data_offsets":[15,27]},)"
      R"("y":{"dtype":"F8_E5M2","shape":[2,2,4],"data_offsets":[27,43]},)"
      R"("y_scale":{"dtype":"F8_E8M0","shape":[2,1,2],"data_offsets":[43,47]},)"
      R"("z":{"dtype":"F4","shape":[4],"data_offsets":[47,49]},"n":{"dtype":"F99","shape":[7],"data_offsets":[49,52]}})";
  out.push_back(raw<std::uint64_t>(scaled_header.size()) + scaled_header + std::string(52, '9'));
  out.push_back("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n");

  const higgs::CodeLayout layout{2, 12, 8, 4};
  higgs::CheckpointContents contents;
  contents.add_layer<higgs::GridCodebook<1, 4>>("v", layout, 7, "BF16");
  contents.add_layer<higgs::UniformCodebook8>("w", layout, std::nullopt, "F32");
  higgs::CheckpointWriter writer(folder / "checkpoint", contents);
  writer.write_layer("v", example_matrix<higgs::GridCodebook<1, 4>>(layout, 7));
  writer.write_layer("w", example_matrix<higgs::UniformCodebook8>(layout, std::nullopt));
  writer.commit();
  out.push_back(read_file(folder / "checkpoint"));

  out.push_back(R"({"metadata":{"total_size":12},"weight_map":{"x":"a","y":"b.safetensors","z":"../c"}})");
  out.push_back(
      R"({"codebook":"2x16","rows":3,"cols":60,"block":32,"group":16,"seed":"7","exponent":-3,"dtype":"F32","t2":null,"step":0.5,"mse":1e-3})");
  out.push_back(R"({"a":[1,-2,0.5e+3,true,false,null,"\u00e9\ud83d\ude00\n"],"b":{"c":{}}})");
  return out;
}

}  // namespace

#if defined(HIGGS_LIBFUZZER)

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  read_hostile({reinterpret_cast<const char*>(data), size});
  return 0;
}
extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  if (*argc == 3 && std::string_view((*argv)[1]) == "--seeds") {
    int number = 0;
    std::filesystem::create_directories((*argv)[2]);
    for (const std::string& seed : seeds())
      write_file(std::filesystem::path((*argv)[2]) / std::to_string(number++), seed);
    std::exit(0);
  }
  return 0;
}

#else

// No small file may ask for much memory. Not inlined: g++ would take free() for a mismatch.
[[gnu::noinline]] void* operator new(std::size_t size) {
  if (size > (std::size_t{64} << 20)) {
    std::fputs("an allocation of more than 64 MiB\n", stderr);
    std::abort();
  }
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

class Mutator {
 public:
  explicit Mutator(std::uint64_t seed) : seed_(seed) {}
  std::size_t below(std::size_t limit) {
    return static_cast<std::size_t>(higgs::random_bits(seed_, counter_++) % limit);
  }

  std::string mutate(const std::string& seed, const std::string& other) {
    std::string text = seed;
    for (std::size_t changes = 1 + below(4); changes > 0; --changes) change(text, other);
    // A safetensors header that grew or shrank gets its length right, most of the time.
    std::uint64_t length = 0;
    if (seed.size() < 8 || text.size() < 8 || below(4) == 0) return text;
    std::memcpy(&length, seed.data(), 8);
    if (length > seed.size() - 8) return text;
    length += text.size() - seed.size();
    std::memcpy(text.data(), &length, 8);
    return text;
  }

 private:
  void change(std::string& text, const std::string& other) {
    static constexpr std::uint64_t numbers[] = {0,
                                                1,
                                                2,
                                                7,
                                                8,
                                                0x7f,
                                                0x80,
                                                0xff,
                                                0x7fff,
                                                0xffff,
                                                1u << 20,
                                                1u << 31,
                                                0xffffffffu,
                                                1ull << 32,
                                                1ull << 59,
                                                1ull << 62,
                                                INT64_MAX,
                                                1ull << 63,
                                                UINT64_MAX - 7,
                                                UINT64_MAX};
    static constexpr std::string_view words[] = {"{",
                                                 "}",
                                                 "[",
                                                 "]",
                                                 ",",
                                                 ":",
                                                 "\"",
                                                 "\\",
                                                 "0",
                                                 "-1",
                                                 "18446744073709551615",
                                                 "9223372036854775807",
                                                 "4294967296",
                                                 "1e999",
                                                 "null",
                                                 "[0,0]",
                                                 "\"w.codes\"",
                                                 "\\u0000",
                                                 "\\ud800",
                                                 "\xff",
                                                 "1x256",
                                                 "ch8",
                                                 "2x64",
                                                 "F64",
                                                 "I16",
                                                 "F8_E4M3",
                                                 "F8_E8M0",
                                                 "Q4_K",
                                                 "_scale",
                                                 "../"};
    const std::size_t at = below(text.size() + 1);
    const std::uint64_t number = numbers[below(std::size(numbers))];
    switch (below(9)) {
      case 0:
        if (at < text.size()) text[at] = static_cast<char>(text[at] ^ 1 << below(8));
        break;
      case 1:
        if (at < text.size()) text[at] = static_cast<char>(below(256));
        break;
      case 2:
        text.insert(at, text.substr(below(text.size() + 1), below(64)));
        break;
      case 3:
        text.erase(at, below(8) == 0 ? below(text.size() + 1) : below(16));
        break;
      case 4:
        if (const std::size_t width = std::size_t{1} << below(4); at + width <= text.size())
          std::memcpy(&text[at], &number, width);
        break;
      case 5:
        text.insert(at, words[below(std::size(words))]);
        break;
      case 6:
        text.replace(at, below(8), words[below(std::size(words))]);
        break;
      case 7:
        text.insert(at, other.substr(below(other.size() + 1), below(200)));
        break;
      default: {  // a number in a text becomes another
        const std::size_t begin = text.find_first_of("0123456789", at);
        if (begin == text.npos) break;
        const std::size_t end = std::min(text.find_first_not_of("0123456789", begin), text.size());
        text.replace(begin, end - begin, std::to_string(number));
      }
    }
  }

  std::uint64_t seed_, counter_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  double seconds = 10;
  std::uint64_t seed = 1;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::string_view(argv[i]) == "--seconds") seconds = std::atof(argv[i + 1]);
    if (std::string_view(argv[i]) == "--seed") seed = std::strtoull(argv[i + 1], nullptr, 10);
  }
  const std::vector<std::string> starts = seeds();
  for (const std::string& start : starts) read_hostile(start);
  Mutator mutator(seed);
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  std::uint64_t count = 0;
  std::string last;
  for (; std::chrono::steady_clock::now() < end; ++count) {
    // Every second input goes on from the last one, so that changes add up.
    const std::string& from =
        mutator.below(2) == 0 && !last.empty() && last.size() < 20000 && mutator.below(8) != 0
            ? last
            : starts[mutator.below(starts.size())];
    last = mutator.mutate(from, starts[mutator.below(starts.size())]);
    try {
      read_hostile(last);
    } catch (const std::exception& error) {
      std::fprintf(stderr, "seed %llu, input %llu: %s\n", static_cast<unsigned long long>(seed),
                   static_cast<unsigned long long>(count), error.what());
      return 1;
    }
  }
  std::printf("%llu hostile files, seed %llu: all read or refused\n", static_cast<unsigned long long>(count),
              static_cast<unsigned long long>(seed));
  return 0;
}

#endif
