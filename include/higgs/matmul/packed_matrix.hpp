// SPDX-License-Identifier: Apache-2.0
// A quantized matrix made ready for many products: what an engine keeps.
#pragma once

#include <higgs/codes/e8/e8.hpp>
#include <higgs/core/concepts.hpp>
#include <higgs/cpu/convert.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/executor.hpp>
#include <higgs/pack/packed_layout.hpp>
#include <higgs/store/quantized_matrix.hpp>
#include <higgs/store/shard.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__linux__)
#  include <sys/mman.h>
#endif

namespace higgs {
inline namespace v0 {

/// What a PackedMatrix keeps of codebooks of 256 points in the plane.
enum class PackedForm {
  Codes,        ///< 4 bits a weight, as in files
  Coordinates,  ///< 8 bits a weight: for few threads faster where no instruction looks up 256 entries
};
inline PackedForm best_packed_form() noexcept {
  return isa_includes(best_isa(), Isa::Avx512) ? PackedForm::Codes : PackedForm::Coordinates;
}

namespace detail {

/// Which kernel reads the tiles: how units are stored, and what one stands for.
enum class UnitKind {
  Nibble1,  // 16 points in one dimension
  Nibble2,  // 16 in two: also two codes of 2 bits
  Six2,     // 64 in two: also two codes of 3 bits
  Byte1,    // the coordinate itself, 128 added; so for all codebooks that have no kind of their own
  Byte2,    // 256 in two dimensions
  Byte4,    // 256 in four
  Wide1,    // 256 of 16-bit coordinates in one
  Signed8,  // patterns of eight magnitudes, their signs and a side: E8Codebook
};

/// What units decode to.
struct UnitTables {
  UnitKind kind = UnitKind::Byte1;
  int unit_bits = 8;
  int dim = 1;
  int planes = 1;
  // Coordinates with 128 added, (planes * dim, 256) bytes; tables of 4 and 6 bits are repeated up to 64 entries and
  // 256 apart.
  alignas(64) std::uint8_t bytes[4][256] = {};
  // Of Byte4 and Signed8, bytes[0 ... 3][unit] side by side.
  alignas(64) std::uint32_t words[256] = {};
  // Of Signed8, bytes[i] are two levels of 4 bits, of magnitudes 2i and 2i + 1 of each pattern, and a
  // coordinate is values[level | sign << 4 | side << 5].
  alignas(64) std::uint8_t values[64] = {};
};

inline void fill_words(UnitTables& tables) noexcept {
  for (int i = 0; i < 4; ++i)
    for (int unit = 0; unit < 256; ++unit)
      tables.words[unit] |= std::uint32_t{tables.bytes[i][unit]} << 8 * i;
}

/// Cache-aligned memory; large blocks ask for huge pages, which spare a stream of codes its page walks.
inline std::shared_ptr<std::uint8_t[]> allocate_tiles(std::size_t bytes) {
  constexpr std::size_t huge = std::size_t{1} << 21;
  const auto alignment = std::align_val_t{bytes >= huge ? huge : std::size_t{64}};
  std::shared_ptr<std::uint8_t[]> out(static_cast<std::uint8_t*>(::operator new(bytes, alignment)),
                                      [alignment](std::uint8_t* p) { ::operator delete(p, alignment); });
#if defined(__linux__)
  if (bytes >= huge) ::madvise(out.get(), bytes, MADV_HUGEPAGE);  // a hint: its failure costs speed only
#endif
  return out;
}

/// Two codes of 2 or 3 bits make a unit.
template <Codebook Book>
inline constexpr bool pairs_codes = Book::dim == 1 && code_bits<Book> <= 3;

/// Codebooks without units of their own are kept as coordinates, 8 bits a weight.
template <Codebook Book>
constexpr UnitKind unit_kind() {
  constexpr int width = pairs_codes<Book> ? 2 : 1, bits = code_bits<Book> * width, dim = Book::dim * width;
  constexpr bool wide = sizeof(typename Book::Element) > 1;
  static_assert(
      !wide || (sizeof(typename Book::Element) == 2 && dim == 1 && bits <= 8),
      "PackedMatrix takes coordinates of 16 bits in one dimension only; matmul(x, QuantizedMatrix) takes all");
  if constexpr (wide) return UnitKind::Wide1;
  if constexpr (std::is_same_v<Book, E8Codebook>) return UnitKind::Signed8;
  if constexpr (bits <= 4 && dim <= 2) return dim == 1 ? UnitKind::Nibble1 : UnitKind::Nibble2;
  if constexpr (bits <= 6 && dim == 2) return UnitKind::Six2;
  if constexpr (bits <= 8 && dim == 2) return UnitKind::Byte2;
  if constexpr (bits <= 8 && dim == 4) return UnitKind::Byte4;
  return UnitKind::Byte1;
}

inline UnitTables make_e8_tables() noexcept {
  UnitTables out{.kind = UnitKind::Signed8, .unit_bits = 16, .dim = E8Codebook::dim};
  for (std::size_t pattern = 0; pattern < 256; ++pattern)
    for (int i = 0; i < 4; ++i)
      out.bytes[i][pattern] = static_cast<std::uint8_t>(e8_patterns[pattern] >> 8 * i);
  for (std::size_t i = 0; i < 64; ++i) {
    const int level = e8_levels[i & 15u], shift = (i & 32u) != 0 ? -e8_shift : e8_shift;
    out.values[i] = static_cast<std::uint8_t>(128 + shift + ((i & 16u) != 0 ? -level : level));
  }
  fill_words(out);
  return out;
}

template <Codebook Book>
UnitTables make_unit_tables(const Book& book, PackedForm order) {
  constexpr int width = pairs_codes<Book> ? 2 : 1;  // codes of a unit
  UnitTables out;
  out.kind = unit_kind<Book>();
  if (out.kind == UnitKind::Signed8) return make_e8_tables();
  if (order == PackedForm::Coordinates && out.kind == UnitKind::Byte2) out.kind = UnitKind::Byte1;
  out.unit_bits = out.kind <= UnitKind::Nibble2 ? 4 : out.kind == UnitKind::Six2 ? 6 : 8;
  out.dim = out.kind == UnitKind::Byte1 ? 1 : Book::dim * width;
  out.planes = out.kind == UnitKind::Wide1 ? 2 : 1;
  if (out.kind == UnitKind::Byte1) {
    for (int unit = 0; unit < 256; ++unit) out.bytes[0][unit] = static_cast<std::uint8_t>(unit);
    return out;
  }
  for (int unit = 0; unit < 1 << out.unit_bits; ++unit) {
    int code = unit;
    for (int i = 0; i < width; ++i, code >>= code_bits<Book>) {
      const auto index =
          static_cast<typename Book::Index>(std::min(code % (1 << (width == 1 ? 8 : code_bits<Book>)),
                                                     Book::size - 1));  // codes beyond the last do not occur
      const typename Book::Point point = book.decode(index);
      for (int d = 0; d < Book::dim; ++d) {
        const int value = point[static_cast<std::size_t>(d)], c = i * Book::dim + d;
        expects(value <= 127 * 256 + 127, "higgs::PackedMatrix: coordinates must not exceed 32639");
        const int high = out.planes == 2 ? (value + 128) >> 8 : 0, low = value - 256 * high;
        const int parts[2] = {low, high};
        for (int plane = 0; plane < out.planes; ++plane)
          for (int copy = unit; copy < (out.unit_bits == 8 ? 256 : 64); copy += 1 << out.unit_bits)
            out.bytes[plane + c][copy] = static_cast<std::uint8_t>(parts[plane] + 128);
      }
    }
  }
  if (out.kind == UnitKind::Byte4) fill_words(out);
  return out;
}

/// Every coordinate of a matrix with 128 added: (rows, groups * group).
template <Codebook Book>
std::vector<std::uint8_t> unpack_coordinates(const QuantizedMatrix<Book>& w, Executor& executor) {
  const auto group = static_cast<std::size_t>(w.layout.group),
             groups = static_cast<std::size_t>(w.layout.groups());
  std::vector<std::uint8_t> out(static_cast<std::size_t>(w.rows()) * groups * group);
  parallel_for(executor, w.rows(), strip_rows, [&](std::int64_t begin, std::int64_t end) {
    std::vector<typename Book::Index> codes(static_cast<std::size_t>(w.layout.codes_per_row(Book::dim)));
    for (std::int64_t row = begin; row < end; ++row) {
      unpack_bits(w.row_codes(row), code_bits<Book>, 0, std::span<typename Book::Index>(codes));
      std::uint8_t* to = out.data() + static_cast<std::size_t>(row) * groups * group;
      const typename Book::Index* code = codes.data();
      for (std::size_t g = 0; g < groups; ++g, to += group)
        for (std::size_t i = 0; i < group; i += Book::dim, ++code) {
          const typename Book::Point point = w.book.decode(*code);
          for (std::size_t d = 0; d < Book::dim && i + d < group; ++d)
            to[i + d] = static_cast<std::uint8_t>(point[d] + 128);
        }
    }
  });
  return out;
}

}  // namespace detail

/// The weights of one linear layer in tile order. A value: copies share the bytes. It needs the matrix that it was made
/// from no longer. One that was made from nothing, or moved from, is empty: 0 x 0.
class PackedMatrix {
 public:
  PackedMatrix() = default;
  PackedMatrix(const PackedMatrix&) = default;
  PackedMatrix& operator=(const PackedMatrix&) = default;
  PackedMatrix(PackedMatrix&& other) noexcept : parts_(std::exchange(other.parts_, {})) {}
  PackedMatrix& operator=(PackedMatrix&& other) noexcept {
    parts_ = std::exchange(other.parts_, {});
    return *this;
  }
  ~PackedMatrix() = default;

  /// Repacks `w`, about as fast as memory copies.
  template <Codebook Book>
  explicit PackedMatrix(const QuantizedMatrix<Book>& w, Executor& executor = default_executor(),
                       PackedForm order = best_packed_form()) {
    if (w.cols() == 0) return;
    detail::expect_whole("higgs::PackedMatrix", w);
    parts_.layout = w.layout;
    parts_.seed = w.seed;
    parts_.exponent = w.exponent;
    parts_.tables = std::make_shared<const detail::UnitTables>(detail::make_unit_tables(w.book, order));
    const bool coordinates = tables().kind == detail::UnitKind::Byte1;
    parts_.tiles = {.rows = w.rows(),
                    .groups = w.layout.groups(),
                    .codes_per_group = coordinates ? w.layout.group : w.layout.codes_per_group(Book::dim),
                    .code_bits = coordinates ? 8 : code_bits<Book>,
                    .unit_bits = tables().unit_bits,
                    .codes_per_unit = detail::pairs_codes<Book> ? 2 : 1};
    const auto bytes = static_cast<std::size_t>(tiles().bytes());
    const std::shared_ptr<std::uint8_t[]> memory = detail::allocate_tiles(bytes);
    if (coordinates)
      pack_panels(tiles(), detail::unpack_coordinates(w, executor), w.layout.padded_cols(), w.scales,
                 {memory.get(), bytes}, executor);
    else
      pack_panels(tiles(), w.codes, w.row_bytes(), w.scales, {memory.get(), bytes}, executor);
    parts_.data = memory;
    std::vector<float> input_scales(w.input_scales.size());
    to_floats(w.input_scales.data(), static_cast<std::int64_t>(input_scales.size()), input_scales.data());
    parts_.input_scales = std::make_shared<const std::vector<float>>(std::move(input_scales));
  }
  /// The same for a part of `w`: its x has the part's columns, its y the part's rows.
  template <Codebook Book>
  PackedMatrix(const QuantizedMatrix<Book>& w, const Shard& part, Executor& executor = default_executor(),
              PackedForm order = best_packed_form())
      : PackedMatrix(ShardedMatrix<Book>(w, part).matrix, executor, order) {
    parts_.first_col = part.first_col;
  }
  explicit PackedMatrix(const AnyQuantizedMatrix& w, Executor& executor = default_executor(),
                       PackedForm order = best_packed_form())
      : PackedMatrix(w.visit([&](const auto& matrix) { return PackedMatrix(matrix, executor, order); })) {}
  PackedMatrix(const AnyQuantizedMatrix& w, const Shard& part, Executor& executor = default_executor(),
              PackedForm order = best_packed_form())
      : PackedMatrix(w.visit([&](const auto& matrix) { return PackedMatrix(matrix, part, executor, order); })) {
  }

  std::int64_t rows() const noexcept { return parts_.layout.rows; }
  std::int64_t cols() const noexcept { return parts_.layout.cols; }
  const CodeLayout& layout() const noexcept { return parts_.layout; }
  std::optional<std::uint64_t> seed() const noexcept { return parts_.seed; }
  /// The column of the whole matrix that the first one of a shard is: signs count from there.
  std::int64_t first_col() const noexcept { return parts_.first_col; }
  int exponent() const noexcept { return parts_.exponent; }
  /// Factors of the activations, (cols) or empty.
  std::span<const float> input_scales() const noexcept {
    return parts_.input_scales ? std::span<const float>(*parts_.input_scales) : std::span<const float>();
  }
  /// Codes and scales as a product reads them.
  std::span<const std::uint8_t> bytes() const noexcept {
    return {parts_.data.get(), static_cast<std::size_t>(tiles().bytes())};
  }

  const PackedLayout& tiles() const noexcept { return parts_.tiles; }
  /// Not of an empty matrix.
  const detail::UnitTables& tables() const noexcept { return *parts_.tables; }

 private:
  struct Parts {
    CodeLayout layout;
    std::int64_t first_col = 0;
    std::optional<std::uint64_t> seed;
    int exponent = 0;
    PackedLayout tiles;
    std::shared_ptr<const detail::UnitTables> tables;
    std::shared_ptr<const std::vector<float>> input_scales;
    std::shared_ptr<const std::uint8_t[]> data;
  };
  Parts parts_;
};

}  // namespace v0
}  // namespace higgs
