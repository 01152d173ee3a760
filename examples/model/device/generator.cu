// SPDX-License-Identifier: Apache-2.0
#include "device/generator.cuh"

#include <higgs/core/error.hpp>
#include <higgs/core/half.hpp>

#include <algorithm>
#include <utility>

namespace higgs::model {
namespace {

// Numbers of Generating::state_.
std::size_t state_size(std::int64_t texts) {
  return static_cast<std::size_t>(texts * (3 + steps_per_reading));
}

std::vector<std::int64_t> lengths_of(std::span<const std::vector<TokenId>> prompts) {
  std::vector<std::int64_t> out;
  for (const std::vector<TokenId>& prompt : prompts) out.push_back(std::ssize(prompt));
  return out;
}

// Throws InvalidArgument for prompts that generate() cannot continue.
void check_prompts(const ModelConfig& config, std::span<const std::vector<TokenId>> prompts) {
  expects(!prompts.empty() && std::ssize(prompts) <= most_texts,
          "higgs::model::generate: there must be 1 to 64 prompts");
  for (const std::vector<TokenId>& prompt : prompts) {
    expects(!prompt.empty(), "higgs::model::generate: the prompt is empty");
    expects(std::ssize(prompt) < config.context,
            "higgs::model::generate: the prompt fills the model's context");
    for (const TokenId token : prompt) check_token(token, config.vocabulary, "higgs::model::generate");
  }
}

// The tokens that each text may get.
std::int64_t limit_of(const ModelConfig& config, std::int64_t length, std::int64_t count) {
  return std::min(count, config.context - length);
}

}  // namespace

DecoderSize generation_size(const ModelConfig& config, std::span<const std::int64_t> lengths,
                            std::int64_t count, std::int64_t chunk) {
  const auto texts = std::ssize(lengths);
  DecoderSize size{.rows = texts, .sequences = texts, .logit_rows = texts};
  for (const std::int64_t length : lengths) {
    size.rows = std::max(size.rows, std::min(length, chunk));
    size.capacity = std::max(size.capacity, length + limit_of(config, length, count));
  }
  return size;
}

template <class T>
Generating<T>::Generating(const ModelConfig& config, const DeviceWeights<T>& weights,
                          std::span<const std::vector<TokenId>> prompts, std::int64_t count,
                          std::int64_t chunk, const Sampling& sampling, std::span<const TokenId> more_ends)
    : config_(config),
      texts_(std::ssize(prompts)),
      chunk_(chunk),
      steps_(0),
      decoder_(config, weights, generation_size(config, lengths_of(prompts), count, chunk)),
      choice_(sampling),
      tokens_(gpu::DeviceBuffer<std::int32_t>::zeros(static_cast<std::size_t>(texts_))),
      readings_{PinnedBuffer<std::int32_t>(state_size(texts_)),
                PinnedBuffer<std::int32_t>(state_size(texts_))},
      done_{make_event(), make_event()},
      prompt_clock_(texts_ + 1),
      step_clock_(3 * steps_per_reading) {  // one reading is taken while the steps of the next are put
  std::vector<std::int32_t> all, positions, sequences, last, limits, ends(config.end_tokens);
  std::vector<std::uint64_t> seeds;
  for (const std::vector<TokenId>& prompt : prompts) {
    const auto text = std::ssize(prompts_);
    prompts_.push_back({std::ssize(all), std::ssize(prompt)});
    for (std::int64_t i = 0; i < std::ssize(prompt); ++i) {
      all.push_back(prompt[static_cast<std::size_t>(i)]);
      positions.push_back(static_cast<std::int32_t>(i));
      sequences.push_back(static_cast<std::int32_t>(text));
    }
    const std::int64_t limit = limit_of(config, std::ssize(prompt), count);
    steps_ = std::max(steps_, limit - 1);
    limits.push_back(static_cast<std::int32_t>(limit));
    last.push_back(static_cast<std::int32_t>(prompt.size()) - 1);
    seeds.push_back(sampling.seed + static_cast<std::uint64_t>(text));
  }
  ends.insert(ends.end(), more_ends.begin(), more_ends.end());
  const auto upload = [](const auto& values) {
    using Element = typename std::remove_cvref_t<decltype(values)>::value_type;
    return gpu::DeviceBuffer<Element>(std::span<const Element>(values));
  };
  prompt_tokens_ = upload(all);
  prompt_positions_ = upload(positions);
  prompt_sequences_ = upload(sequences);
  limits_ = upload(limits);
  ends_ = upload(ends);
  seeds_ = upload(seeds);
  last.resize(state_size(texts_));  // what follows the positions begins as zeros
  state_ = upload(last);
  states_ = {.tokens = tokens_.data(),
             .positions = state_.data(),
             .counts = state_.data() + texts_,
             .limits = limits_.data(),
             .seeds = seeds_.data(),
             .output = state_.data() + 3 * texts_,
             .ring = steps_per_reading,
             .damage = state_.data() + 2 * texts_,
             .ends = ends_.data(),
             .end_count = static_cast<std::int32_t>(ends.size())};
}

template <class T>
void Generating<T>::warm_up(cudaStream_t stream) {
  const gpu::DeviceBuffer<std::int32_t> kept(state_.size_bytes() / sizeof(std::int32_t));
  const auto copy_async = [&](const auto& from, const auto& to) {
    gpu::check(cudaMemcpyAsync(to.data(), from.data(), from.size_bytes(), cudaMemcpyDeviceToDevice, stream),
               "higgs::model::Generating::warm_up");
  };
  copy_async(state_, kept);
  // The keys and values of these rows are written again before a row of the prompts reads them.
  const std::int64_t rows = std::min(chunk_, prompts_.front().length);
  decoder_.embed_async(prompt_tokens_.data(), rows, static_cast<float>(config_.embedding_scale), stream);
  decoder_.blocks_async(0, static_cast<std::size_t>(config_.layers), rows,
                        {prompt_positions_.data(), prompt_sequences_.data()}, Pass::Prompt, stream);
  decoder_.finish_async(rows - 1, 1, stream);
  decoder_.logits_async(1, stream);
  step_async(stream);
  copy_async(kept, state_);
  gpu::check(cudaStreamSynchronize(stream), "higgs::model::Generating::warm_up");
}

template <class T>
void Generating<T>::read_prompts_async(cudaStream_t stream) {
  const auto scale = static_cast<float>(config_.embedding_scale);
  prompt_clock_.mark_async(stream);
  for (std::size_t text = 0; text < prompts_.size(); ++text) {
    const Prompt& prompt = prompts_[text];
    for (std::int64_t done = 0; done < prompt.length; done += chunk_) {
      const std::int64_t rows = std::min(chunk_, prompt.length - done), at = prompt.first + done;
      decoder_.embed_async(prompt_tokens_.data() + at, rows, scale, stream);
      decoder_.blocks_async(0, static_cast<std::size_t>(config_.layers), rows,
                            {prompt_positions_.data() + at, prompt_sequences_.data() + at}, Pass::Prompt,
                            stream);
      if (done + rows < prompt.length) continue;
      decoder_.finish_async(rows - 1, 1, stream);
      decoder_.logits_async(1, stream);
      TextStates one = states_.from(static_cast<std::int32_t>(text));
      choose_tokens_async(decoder_.logits(1), choice_, one, stream);
    }
    prompt_clock_.mark_async(stream);
  }
  step_clock_.mark_async(stream);
}

template <class T>
void Generating<T>::step_async(cudaStream_t stream) {
  decoder_.embed_async(states_.tokens, texts_, static_cast<float>(config_.embedding_scale), stream);
  decoder_.blocks_async(0, static_cast<std::size_t>(config_.layers), texts_, {states_.positions, nullptr},
                        Pass::Step, stream);
  decoder_.finish_async(0, texts_, stream);
  decoder_.logits_async(texts_, stream);
  choose_tokens_async(decoder_.logits(texts_), choice_, states_, stream);
}

template <class T>
void Generating<T>::read_async(int reading, cudaStream_t stream) {
  gpu::check(cudaMemcpyAsync(readings_[reading].data(), state_.data(), state_.size_bytes(),
                             cudaMemcpyDeviceToHost, stream),
             "higgs::model::Generating::read_async");
  gpu::check(cudaEventRecord(done_[reading].get(), stream), "higgs::model::Generating::read_async");
}

template <class T>
void Generating<T>::wait(int reading) const {
  gpu::check(cudaEventSynchronize(done_[reading].get()), "higgs::model::Generating::wait");
}

template <class T>
std::int64_t Generating<T>::count(int reading, std::size_t text) const {
  return readings_[reading].data()[static_cast<std::size_t>(texts_) + text];
}

template <class T>
TokenId Generating<T>::token(int reading, std::size_t text, std::int64_t index) const {
  const std::int64_t at = 3 * texts_ + static_cast<std::int64_t>(text) * steps_per_reading;
  return readings_[reading].data()[at + index % steps_per_reading];
}

template <class T>
double Generating<T>::prompt_seconds(std::size_t text) const {
  const auto mark = static_cast<std::int64_t>(text);
  return prompt_clock_.seconds(mark, mark + 1);
}

template <class T>
bool Generating<T>::ended(int reading) const {
  const std::int32_t* positions = readings_[reading].data();
  const std::int32_t* damage = positions + 2 * texts_;
  for (std::int64_t text = 0; text < texts_; ++text)
    if (damage[text] != 0)
      throw FormatError(
          "the model gives token " + std::to_string(damage[text] - 1) +
          " of the vocabulary a logit that is NaN or infinite: " + causes_of_infinity(device_type_of<T>));
  return std::all_of(positions, positions + texts_, [](std::int32_t position) { return position < 0; });
}

template <class T>
ModelGenerator<T>::ModelGenerator(const ModelSource& source, const DeviceOptions& options, Executor& executor)
    : name_(source.path().string()),
      config_(source.require_config()),
      options_(options),
      weights_(load_device_weights<T>(source, options, executor)) {}

template <class T>
std::vector<Generation> ModelGenerator<T>::generate(std::span<const std::vector<TokenId>> prompts,
                                                    std::int64_t count, const Sampling& sampling,
                                                    const OnToken& on_token,
                                                    std::span<const TokenId> more_ends) {
  check_prompts(config_, prompts);
  const Sampler checked(sampling);  // for its errors
  const DecoderSize size = generation_size(config_, lengths_of(prompts), count, options_.chunk);
  require_memory(name_, decoder_needs(config_, size, layer_needs(weights_, size)), free_device_memory());
  const Stream stream = make_stream();
  Generating<T> texts(config_, weights_, prompts, count, options_.chunk, sampling, more_ends);
  std::vector<Generation> out(prompts.size());
  double decoded = 0;                   // seconds until the step that gave token `newest`
  std::int64_t newest = 0;              // tokens of the longest text
  const auto take = [&](int reading) {  // the tokens that a reading adds; whether more will come
    texts.wait(reading);
    const bool ended = texts.ended(reading);
    std::int64_t last = newest;
    for (std::size_t text = 0; text < out.size(); ++text) {
      const std::int64_t known = std::ssize(out[text].tokens), all = texts.count(reading, text);
      if (all == known) continue;
      last = std::max(last, all - 1);
      out[text].decode_seconds = decoded + texts.seconds(newest, all - 1);
      for (std::int64_t i = known; i < all; ++i) {
        out[text].tokens.push_back(texts.token(reading, text, i));
        if (on_token) on_token(text, out[text].tokens.back());
      }
    }
    decoded += texts.seconds(newest, last);
    newest = last;
    return !ended;
  };

  texts.warm_up(stream.get());
  const Graph step = capture(stream.get(), [&] { texts.step_async(stream.get()); });
  texts.read_prompts_async(stream.get());
  texts.read_async(0, stream.get());
  bool more = take(0);
  for (std::size_t text = 0; text < out.size(); ++text) {
    out[text].prompt_tokens = std::ssize(prompts[text]);
    out[text].prefill_seconds = texts.prompt_seconds(text);
  }
  std::int64_t launched = 0;
  bool under_way = false;  // whether reading `next` ^ 1 was put on the stream and not taken
  for (int next = 0; more; next ^= 1) {
    const std::int64_t until =
        std::min<std::int64_t>((launched / steps_per_reading + 1) * steps_per_reading, texts.steps());
    for (; launched < until; ++launched) {
      gpu::check(cudaGraphLaunch(step.get(), stream.get()), "higgs::model::generate");
      texts.mark_step_async(stream.get());
    }
    texts.read_async(next, stream.get());
    if (under_way) more = take(next ^ 1);
    under_way = true;
  }
  gpu::check(cudaStreamSynchronize(stream.get()), "higgs::model::generate");
  return out;
}

template class Generating<Half>;
template class Generating<BFloat16>;
template class ModelGenerator<Half>;
template class ModelGenerator<BFloat16>;

}  // namespace higgs::model
