// SPDX-License-Identifier: Apache-2.0
#include "device/network.cuh"

#include "math/math.hpp"
#include "source/load.hpp"

#include <higgs/core/error.hpp>
#include <higgs/core/half.hpp>

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

namespace higgs::model {
namespace {

// Rows whose logits are on the device at once.
constexpr std::int64_t output_rows = 64;

// Rows of floats to the device, times a factor, as T. Returns when they are there.
template <class T>
void to_device(MatrixView<const float> from, float factor, gpu::DenseView<T> to, cudaStream_t stream) {
  std::vector<T> values;
  values.reserve(static_cast<std::size_t>(from.size()));
  for (std::int64_t r = 0; r < from.rows; ++r)
    for (std::int64_t c = 0; c < from.cols; ++c) values.push_back(static_cast<T>(from(r, c) * factor));
  gpu::check(
      cudaMemcpyAsync(to.data, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice, stream),
      "higgs::model::to_device");
  gpu::check(cudaStreamSynchronize(stream), "higgs::model::to_device");
}

// Rows of the device as floats, times a factor; waits for the stream.
template <class T>
void to_host(gpu::DenseView<T> from, MatrixView<float> to, cudaStream_t stream) {
  std::vector<std::remove_const_t<T>> values(static_cast<std::size_t>(from.rows * from.cols));
  gpu::check(
      cudaMemcpyAsync(values.data(), from.data, values.size() * sizeof(T), cudaMemcpyDeviceToHost, stream),
      "higgs::model::to_host");
  gpu::check(cudaStreamSynchronize(stream), "higgs::model::to_host");
  for (std::int64_t r = 0; r < from.rows; ++r)
    for (std::int64_t c = 0; c < from.cols; ++c)
      to(r, c) = static_cast<float>(values[static_cast<std::size_t>(r * from.cols + c)]);
}

// Throws FormatError unless all states are finite; row 0 is token `first` of the text, and `last` of `layers` blocks have
// worked on it. Attention multiplies an infinite value behind a token by 0, which makes the token NaN: the token that is
// wrong may come after the one that is found.
template <class T>
void check_states(const std::string& name, MatrixView<const float> x, std::int64_t first, std::size_t last,
                  std::size_t layers) {
  for (std::int64_t r = 0; r < x.rows; ++r)
    if (find_not_finite(x.row(r), x.cols) >= 0)
      throw FormatError(
          name + ": token " + std::to_string(first + r) +
          " of the text, or one after it, becomes NaN or infinite " +
          (last < layers ? "before layer " + std::to_string(last) : std::string("after the last layer")) +
          ": " + causes_of_infinity(device_type_of<T>));
}

}  // namespace

template <class T>
DeviceOutput<T>::DeviceOutput(const ModelConfig& config, DeviceLinear<T> layer)
    : layer_(std::move(layer)),
      hidden_(static_cast<std::size_t>(output_rows * config.width)),
      logits_(static_cast<std::size_t>(output_rows * config.vocabulary)),
      space_({layer_.weight->workspace_bytes(output_rows)}, Rows::Few) {}

template <class T>
void DeviceOutput<T>::operator()(MatrixView<const float> hidden, MatrixView<float> logits) const {
  const Stream stream = make_stream();
  for (std::int64_t first = 0; first < hidden.rows; first += output_rows) {
    const std::int64_t rows = std::min(output_rows, hidden.rows - first);
    const gpu::DenseView<T> x(hidden_.data(), rows, hidden.cols);
    const gpu::DenseView<float> y(logits_.data(), rows, logits.cols);
    to_device(hidden.row_range(first, rows), 1, x, stream.get());
    layer_.multiply_async(gpu::DenseView<const T>(x), y, space_, stream.get());
    to_host(y, logits.row_range(first, rows), stream.get());
  }
}

template <class T>
DeviceNetwork<T>::Text::Text(const ModelConfig& config, const DeviceWeights<T>& weights,
                             const DecoderSize& size)
    : decoder(config, weights, size),
      tokens(static_cast<std::size_t>(size.capacity)),
      sequences(gpu::DeviceBuffer<std::int32_t>::zeros(static_cast<std::size_t>(size.capacity))) {
  std::vector<std::int32_t> places(static_cast<std::size_t>(size.capacity));
  std::iota(places.begin(), places.end(), 0);
  positions = gpu::DeviceBuffer<std::int32_t>(std::span<const std::int32_t>(places));
}

template <class T>
DeviceNetwork<T>::DeviceNetwork(const ModelSource& source, const DeviceOptions& options, Executor& executor)
    : source_(source),
      config_(source.require_config()),
      name_(source.path().string()),
      options_(options),
      executor_(executor),
      weights_(load_device_weights<T>(source, options, executor)),
      stream_(make_stream()) {}

template <class T>
DeviceNetwork<T>::DeviceNetwork(const DeviceNetwork& other)
    : source_(other.source_),
      config_(other.config_),
      name_(other.name_),
      options_(other.options_),
      executor_(other.executor_),
      weights_(other.weights_),
      replaced_(other.replaced_),
      stream_(make_stream()) {}

// The memory for a text of so many tokens, which is the room that rotary frequencies depend on.
template <class T>
typename DeviceNetwork<T>::Text& DeviceNetwork<T>::text(std::int64_t tokens) {
  if (!text_ || text_->decoder.size().capacity != tokens) {
    text_.reset();
    text_ = std::make_unique<Text>(
        config_, weights_,
        DecoderSize{.rows = std::min(tokens, options_.chunk), .capacity = tokens, .logit_rows = 0});
  }
  return *text_;
}

template <class T>
TokenRows DeviceNetwork<T>::rows_from(std::int64_t first) const {
  return {text_->positions.data() + first, text_->sequences.data()};
}

template <class T>
void DeviceNetwork<T>::embed(std::span<const TokenId> tokens, MatrixView<float> x) {
  for (const TokenId token : tokens) check_token(token, config_.vocabulary, name_);
  const gpu::DeviceBuffer<std::int32_t> ids{tokens};
  const gpu::DeviceBuffer<float> rows(static_cast<std::size_t>(x.rows * x.cols));
  const gpu::DenseView<float> out(rows.data(), x.rows, x.cols);
  embed_async<T>({weights_.embedding->data(), config_.vocabulary, config_.width}, ids.data(), 1, out,
                 stream_.get());
  to_host(out, x, stream_.get());
}

template <class T>
void DeviceNetwork<T>::run_blocks(std::size_t first, std::size_t last, MatrixView<float> x) {
  expects(
      first <= last && last <= weights_.blocks.size() && x.cols == config_.width,
      "higgs::model::DeviceNetwork::run_blocks: x must be (tokens, width), the blocks those of the model");
  if (x.rows == 0) return;
  if (first == last) {  // not even the embedding's factor, which belongs to block 0
    check_states<T>(name_, x, 0, last, weights_.blocks.size());
    return;
  }
  Decoder<T>& decoder = text(x.rows).decoder;
  for (std::int64_t begin = 0; begin < x.rows; begin += decoder.size().rows) {
    const std::int64_t rows = std::min(decoder.size().rows, x.rows - begin);
    const MatrixView<float> part = x.row_range(begin, rows);
    to_device(MatrixView<const float>(part), first == 0 ? static_cast<float>(config_.embedding_scale) : 1.0f,
              decoder.states(rows), stream_.get());
    decoder.blocks_async(first, last, rows, rows_from(begin), Pass::Prompt, stream_.get());
    decoder.settle_async(rows, stream_.get());
    to_host(decoder.states(rows), part, stream_.get());
    check_states<T>(name_, part, begin, last, weights_.blocks.size());
  }
}

template <class T>
void DeviceNetwork<T>::finish(MatrixView<const float> x, MatrixView<float> hidden) {
  if (x.rows == 0) return;
  Decoder<T>& decoder = text(x.rows).decoder;
  for (std::int64_t begin = 0; begin < x.rows; begin += decoder.size().rows) {
    const std::int64_t rows = std::min(decoder.size().rows, x.rows - begin);
    to_device(x.row_range(begin, rows), 1, decoder.states(rows), stream_.get());
    decoder.finish_async(0, rows, stream_.get());
    to_host(decoder.hidden(rows), hidden.row_range(begin, rows), stream_.get());
  }
}

template <class T>
void DeviceNetwork<T>::forward(std::span<const TokenId> tokens, MatrixView<float> hidden) {
  for (const TokenId token : tokens) check_token(token, config_.vocabulary, name_);
  if (tokens.empty()) return;
  Text& place = text(std::ssize(tokens));
  Decoder<T>& decoder = place.decoder;
  gpu::check(cudaMemcpyAsync(place.tokens.data(), tokens.data(), tokens.size_bytes(), cudaMemcpyHostToDevice,
                             stream_.get()),
             "higgs::model::DeviceNetwork::forward");
  for (std::int64_t begin = 0; begin < hidden.rows; begin += decoder.size().rows) {
    const std::int64_t rows = std::min(decoder.size().rows, hidden.rows - begin);
    decoder.embed_async(place.tokens.data() + begin, rows, static_cast<float>(config_.embedding_scale),
                        stream_.get());
    decoder.blocks_async(0, weights_.blocks.size(), rows, rows_from(begin), Pass::Prompt, stream_.get());
    decoder.finish_async(0, rows, stream_.get());
    to_host(decoder.hidden(rows), hidden.row_range(begin, rows), stream_.get());
    check_states<T>(name_, hidden.row_range(begin, rows), begin, weights_.blocks.size(),
                    weights_.blocks.size());
  }
}

template <class T>
void DeviceNetwork<T>::logits(MatrixView<const float> hidden, MatrixView<float> logits) {
  output()(hidden, logits);
  for (std::int64_t row = 0; row < logits.rows; ++row) {
    const std::int64_t at = find_not_finite(logits.row(row), logits.cols);
    if (at >= 0)
      throw FormatError(name_ + ": the logit of token " + std::to_string(at) + " is not finite, in row " +
                        std::to_string(row) +
                        " of those asked for: the output layer or the last norm is damaged");
  }
}

template <class T>
OutputLayer DeviceNetwork<T>::output() const {
  if (!output_) output_ = std::make_shared<DeviceOutput<T>>(config_, weights_.output);
  return [layer = output_](MatrixView<const float> hidden, MatrixView<float> logits) {
    (*layer)(hidden, logits);
  };
}

template <class T>
SharedMatrix DeviceNetwork<T>::dense(std::string_view matrix, const char* function) const {
  const ModelTensor* tensor = source_.find(matrix);
  if (!tensor || replaced_.contains(matrix))
    throw InvalidArgument(std::string(function) + ": " + std::string(matrix) +
                          " is quantized or was replaced; it must be dense, as in the file");
  Matrix out(tensor->rows(), tensor->cols());
  parallel_for(executor_, out.rows, 64, [&](std::int64_t begin, std::int64_t end) {
    read_finite_rows(*tensor, begin, end - begin,
                     {out.row(begin), static_cast<std::size_t>((end - begin) * out.cols)});
  });
  return share(std::move(out));
}

template <class T>
std::unique_ptr<Network> DeviceNetwork<T>::copy() const {
  return std::unique_ptr<Network>(new DeviceNetwork(*this));
}

template <class T>
void DeviceNetwork<T>::replace(std::string_view matrix, const Replacement& weight) {
  replace_matrix(weights_, source_, executor_, matrix, weight);
  replaced_.emplace(matrix);
  text_.reset();  // its decoder has the weights of before
  output_.reset();
}

template class DeviceOutput<Half>;
template class DeviceOutput<BFloat16>;
template class DeviceNetwork<Half>;
template class DeviceNetwork<BFloat16>;

}  // namespace higgs::model
