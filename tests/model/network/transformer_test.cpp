// SPDX-License-Identifier: Apache-2.0
#include "network/transformer.hpp"

#include "architecture/parts.hpp"
#include "model/tiny_model.hpp"

#include <higgs/matmul/decode.hpp>
#include <higgs/quantizer.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <vector>

using namespace higgs::model;

namespace {

// Logits of all positions, row by row.
std::vector<float> logits_of(const Transformer& model, const std::vector<TokenId>& text,
                             higgs::Executor& executor = higgs::default_executor(),
                             KvType type = KvType::Float) {
  const auto count = static_cast<std::int64_t>(text.size()), vocabulary = model.config().vocabulary;
  KvCache cache(model.config(), count, type);
  std::vector<float> hidden(text.size() * static_cast<std::size_t>(model.config().width));
  std::vector<float> out(text.size() * static_cast<std::size_t>(vocabulary));
  const higgs::MatrixView<float> states(hidden.data(), count, model.config().width);
  model.forward(text, cache, states, executor);
  model.logits(states, {out.data(), count, vocabulary}, executor);
  return out;
}

// transformers 5.23 in double, on the weights of tiny_model.hpp: logits at the end of tiny_text(24).
struct Golden {
  const char* name;
  ModelConfig config;
  double last[6];   // of tokens 0, 7, 13, 21, 30, 39 after all 24
  double third[2];  // of tokens 0 and 39 after 4
};

std::vector<Golden> golden_models() {
  ModelConfig llama3 = tiny_config("llama"), linear = llama3;
  llama3.rope_theta = linear.rope_theta = 100;
  llama3.tied_embeddings = linear.tied_embeddings = false;
  llama3.rope_scaling = {RopeScaling::Kind::Llama3, 8, 1, 4, 16};
  linear.rope_scaling = {.kind = RopeScaling::Kind::Linear, .factor = 4};
  linear.qkv_bias = linear.o_bias = true;
  ModelConfig yarn = tiny_config("llama"), longrope = tiny_config("qwen3");
  yarn.rope_theta = longrope.rope_theta = 100;
  yarn.tied_embeddings = false;
  yarn.qkv_bias = yarn.o_bias = yarn.mlp_bias = true;
  yarn.rope_scaling = {.kind = RopeScaling::Kind::Yarn,
                       .factor = 4,
                       .original_context = 16,
                       .beta_fast = 2,
                       .beta_slow = 0.25,
                       .truncate = false,
                       .attention_factor = 1.25};
  longrope.rope_scaling = {.kind = RopeScaling::Kind::LongRope,
                           .original_context = 16,  // the text is longer
                           .short_factor = {1, 1.5, 2, 2.5, 3},
                           .long_factor = {1, 2, 4, 6, 9},
                           .attention_factor = 1.5};
  return {{"llama, yarn and every bias",
           yarn,
           {-0.0577450, 2.7617777, 0.0773496, -0.0580216, 2.2569514, -0.3141603},
           {-1.1741562, -0.5948029}},
          {"qwen3, longrope",
           longrope,
           {-0.8110752, 0.7726241, 2.4254638, 0.0888473, 1.0770695, 0.1249308},
           {1.1842482, -1.4661821}},
          {"llama",
           tiny_config("llama"),
           {-1.5916091, 8.0819611, 13.4847933, -5.2399250, -3.8382426, -4.6685971},
           {1.5711034, -10.3273311}},
          {"llama, scaled rope",
           llama3,
           {1.2030894, -1.0378044, -0.1271513, 2.3303180, -0.7401905, 0.7433044},
           {-0.1983861, -1.5021355}},
          {"llama, linear rope and biases",
           linear,
           {0.3942286, 0.1898754, -0.2081796, 2.4038087, 0.6791527, -0.5550597},
           {0.0816912, -1.7880979}},
          {"qwen2",
           tiny_config("qwen2"),
           {-2.6036841, -1.8873496, 25.9690638, -7.2339415, 1.4401921, 3.0263087},
           {4.7869422, -7.5388143}},
          {"qwen3",
           tiny_config("qwen3"),
           {0.0774537, 0.5948705, 2.5935822, 0.6123734, 0.5511311, 0.8030795},
           {1.5021326, -0.8728750}}};
}

// About a thousand roundings of 2^-24 lie on the way to a logit. They add up like their root, 32; three times that.
double tolerance(const std::vector<float>& logits) {
  double largest = 0;
  for (const float each : logits) largest = std::max(largest, std::fabs(static_cast<double>(each)));
  return 100 * 0x1p-24 * largest;
}

// The forward pass as its papers write it, one token and one number at a time, in double.
class Formulas {
 public:
  using Vector = std::vector<double>;
  explicit Formulas(const ModelConfig& config) : config_(config) {
    for (TinyTensor& tensor : tiny_tensors(config)) tensors_.emplace(tensor.name, tensor);
  }

  Vector logits(const std::vector<TokenId>& text) const {
    std::vector<Vector> states;
    for (const TokenId token : text) {
      Vector x;
      for (std::size_t i = 0; i < size(config_.width); ++i)
        x.push_back(config_.embedding_scale * at("model.embed_tokens.weight",
                                                 static_cast<std::size_t>(token) * size(config_.width) + i));
      states.push_back(x);
    }
    for (std::int64_t block = 0; block < config_.layers; ++block)
      run_block("model.layers." + std::to_string(block) + ".", states);
    Vector out;
    for (const Vector& x : states)
      for (const double logit : product(config_.tied_embeddings ? "model.embed_tokens" : "lm_head",
                                        norm(x, "model.norm.weight"), config_.vocabulary))
        out.push_back(logit / config_.logits_scale);
    return out;
  }

 private:
  static std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }
  double at(const std::string& name, std::size_t i) const {
    return static_cast<double>(tensors_.at(name).values[i]);
  }
  Vector product(const std::string& name, const Vector& x, std::int64_t rows) const {
    Vector out(size(rows));
    for (std::size_t r = 0; r < out.size(); ++r) {
      for (std::size_t c = 0; c < x.size(); ++c) out[r] += at(name + ".weight", r * x.size() + c) * x[c];
      if (tensors_.contains(name + ".bias")) out[r] += at(name + ".bias", r);
    }
    return out;
  }
  Vector norm(Vector x, const std::string& name) const {
    double squares = 0;
    for (const double each : x) squares += each * each;
    const double rms = std::sqrt(squares / static_cast<double>(x.size()) + config_.rms_epsilon);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] *= at(name, i) / rms;
    return x;
  }
  // The heads of q or k at a position, normalized where the family does so, and turned.
  Vector heads(const Vector& x, std::size_t position, const std::string& norm_name) const {
    const std::size_t width = size(config_.head_width), half = width / 2;
    Vector out;
    for (std::size_t first = 0; first < x.size(); first += width) {
      Vector head(x.begin() + static_cast<std::ptrdiff_t>(first),
                  x.begin() + static_cast<std::ptrdiff_t>(first + width));
      if (config_.head_norms) head = norm(head, norm_name);
      Vector turned(width);
      for (std::size_t i = 0; i < half; ++i) {
        const double angle =
            static_cast<double>(position) *
            std::pow(config_.rope_theta, -2 * static_cast<double>(i) / static_cast<double>(width));
        turned[i] = head[i] * std::cos(angle) - head[half + i] * std::sin(angle);
        turned[half + i] = head[half + i] * std::cos(angle) + head[i] * std::sin(angle);
      }
      out.insert(out.end(), turned.begin(), turned.end());
    }
    return out;
  }
  void run_block(const std::string& prefix, std::vector<Vector>& states) const {
    std::vector<Vector> q, k, v;
    for (std::size_t t = 0; t < states.size(); ++t) {
      const Vector x = norm(states[t], prefix + "input_layernorm.weight");
      q.push_back(heads(product(prefix + "self_attn.q_proj", x, config_.query_width()), t,
                        prefix + "self_attn.q_norm.weight"));
      k.push_back(heads(product(prefix + "self_attn.k_proj", x, config_.kv_width()), t,
                        prefix + "self_attn.k_norm.weight"));
      v.push_back(product(prefix + "self_attn.v_proj", x, config_.kv_width()));
    }
    for (std::size_t t = 0; t < states.size(); ++t) {
      add(states[t], product(prefix + "self_attn.o_proj", attention(q[t], k, v, t), config_.width));
      const Vector x = norm(states[t], prefix + "post_attention_layernorm.weight"),
                   up = product(prefix + "mlp.up_proj", x, config_.ffn_width);
      Vector gate = product(prefix + "mlp.gate_proj", x, config_.ffn_width);
      for (std::size_t i = 0; i < gate.size(); ++i) gate[i] *= up[i] / (1 + std::exp(-gate[i]));
      add(states[t], product(prefix + "mlp.down_proj", gate, config_.width));
    }
  }
  void add(Vector& x, const Vector& more) const {
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += config_.residual_scale * more[i];
  }
  // What token `t` sees of the tokens up to itself.
  Vector attention(const Vector& q, const std::vector<Vector>& k, const std::vector<Vector>& v,
                   std::size_t t) const {
    const std::size_t width = size(config_.head_width), shared = size(config_.heads / config_.kv_heads);
    const double scale =
        config_.attention_scale != 0 ? config_.attention_scale : 1 / std::sqrt(static_cast<double>(width));
    Vector out(q.size());
    for (std::size_t head = 0; head < size(config_.heads); ++head) {
      const std::size_t own = head * width, other = head / shared * width;
      Vector weights;
      double sum = 0;
      for (std::size_t s = 0; s <= t; ++s) {
        double score = 0;
        for (std::size_t i = 0; i < width; ++i) score += q[own + i] * k[s][other + i];
        weights.push_back(std::exp(scale * score));
        sum += weights.back();
      }
      for (std::size_t s = 0; s <= t; ++s)
        for (std::size_t i = 0; i < width; ++i) out[own + i] += weights[s] / sum * v[s][other + i];
    }
    return out;
  }

  ModelConfig config_;
  std::map<std::string, TinyTensor> tensors_;
};

}  // namespace

TEST_CASE("logits are those of an independent implementation", "[model][transformer]") {
  for (const Golden& golden : golden_models()) {
    INFO(golden.name);
    const std::vector<float> logits = logits_of(load_tiny(golden.config), tiny_text(24));
    const std::size_t tokens[] = {0, 7, 13, 21, 30, 39};
    for (std::size_t i = 0; i < 6; ++i)
      CHECK(static_cast<double>(logits[23 * 40 + tokens[i]]) ==
            Approx(golden.last[i]).margin(tolerance(logits)).epsilon(0));
    CHECK(static_cast<double>(logits[3 * 40]) ==
          Approx(golden.third[0]).margin(tolerance(logits)).epsilon(0));
    CHECK(static_cast<double>(logits[3 * 40 + 39]) ==
          Approx(golden.third[1]).margin(tolerance(logits)).epsilon(0));
  }
}

TEST_CASE("logits are those of the formulas, in double", "[model][transformer]") {
  for (const std::string family : {"llama", "qwen2", "qwen3", "granite"}) {
    const ModelConfig config = tiny_config(family);
    INFO(family);
    const std::vector<float> logits = logits_of(load_tiny(config), tiny_text(24));
    const std::vector<double> expected = Formulas(config).logits(tiny_text(24));
    REQUIRE(expected.size() == logits.size());
    for (std::size_t i = 0; i < logits.size(); ++i)
      CHECK(static_cast<double>(logits[i]) == Approx(expected[i]).margin(tolerance(logits)).epsilon(0));
  }
}

TEST_CASE("a GGUF file gives the same bits as the folder it was made from", "[model][transformer]") {
  for (const std::string family : {"llama", "qwen2", "qwen3", "granite"}) {
    ModelConfig config = tiny_config(family);
    if (family == "llama") config.qkv_bias = config.o_bias = true;  // biases of q and k are interleaved too
    const TemporaryFolder folder;
    write_file(folder / "model.gguf", tiny_gguf(config).build());
    const ModelSource source(folder / "model.gguf");
    CHECK(logits_of(Transformer::load(source), tiny_text(24)) == logits_of(load_tiny(config), tiny_text(24)));
  }
}

TEST_CASE("divisors of rotary frequencies in a GGUF file are what the scaling of the configuration is",
          "[model][transformer]") {
  ModelConfig scaled = tiny_config("llama");
  scaled.rope_theta = 100;
  const ModelConfig plain = scaled;
  scaled.rope_scaling = {RopeScaling::Kind::Llama3, 8, 1, 4, 16};
  const std::vector<float> with = rope_frequencies(scaled), without = rope_frequencies(plain);
  GgufBuilder gguf = tiny_gguf(plain);
  std::string factors;
  for (std::size_t i = 0; i < with.size(); ++i) factors += raw(without[i] / with[i]);
  gguf.add_tensor("rope_freqs.weight", {3}, 0, factors);
  const TemporaryFolder folder;
  write_file(folder / "model.gguf", gguf.build());
  const std::vector<float> expected = logits_of(load_tiny(scaled), tiny_text(24));
  const std::vector<float> logits =
      logits_of(Transformer::load(ModelSource(folder / "model.gguf")), tiny_text(24));
  CHECK(logits != logits_of(load_tiny(plain), tiny_text(24)));
  for (std::size_t i = 0; i < logits.size(); ++i)
    CHECK(std::fabs(static_cast<double>(logits[i] - expected[i])) < tolerance(expected));
}

TEST_CASE("reading token by token gives the bits of reading all at once", "[model][transformer]") {
  const Transformer model = load_tiny(tiny_config("qwen3"));
  const std::vector<TokenId> text = tiny_text(64);  // crosses a block of queries
  std::vector<float> whole(64 * 24), single(64 * 24), pieces(64 * 24);
  KvCache cache(model.config(), 64, GENERATE(KvType::Float, KvType::Half));
  model.forward(text, cache, {whole.data(), 64, 24});
  CHECK(cache.size() == 64);
  cache.truncate(0);
  for (std::int64_t t = 0; t < 64; ++t)
    model.forward({&text[static_cast<std::size_t>(t)], 1}, cache,
                  {&single[static_cast<std::size_t>(t) * 24], 1, 24});
  CHECK(single == whole);
  cache.truncate(0);
  model.forward({text.data(), 50}, cache, {pieces.data(), 50, 24});
  cache.truncate(31);  // forgets 19 of them
  model.forward({text.data() + 31, 33}, cache, {pieces.data() + 31 * 24, 33, 24});
  CHECK(pieces == whole);
}

// Three texts of a model, read in two passes: stretches of any length side by side.
TEST_CASE("texts that are read together have the bits of each read alone", "[model][transformer]") {
  const std::vector<std::vector<TokenId>> texts{tiny_text(60), tiny_text(9), tiny_text(31)};
  const std::size_t firsts[] = {52, 8, 0};  // tokens of the first pass; then 8, 1 and 31
  for (Golden& golden : golden_models()) {
    Transformer model = load_tiny(golden.config);
    if (golden.config.family == "qwen2")  // from codes, too
      for (const BlockLinear& layer : block_linears(model.config()))
        layer.in(model.weights).weight =
            higgs::PackedMatrix(higgs::quantize(require_dense(layer.in(model.weights), "")->view(), "2x256"));
    std::vector<KvCache> caches;
    for (const auto& text : texts) caches.emplace_back(model.config(), std::ssize(text), KvType::Half);
    std::vector<std::vector<float>> found(3);
    for (const bool second : {false, true}) {
      std::vector<TokenId> tokens;
      std::vector<TextPart> parts;
      for (std::size_t i = 0; i < 3; ++i) {
        const std::size_t begin = second ? firsts[i] : 0, end = second ? texts[i].size() : firsts[i];
        tokens.insert(tokens.end(), texts[i].begin() + static_cast<std::ptrdiff_t>(begin),
                      texts[i].begin() + static_cast<std::ptrdiff_t>(end));
        parts.push_back({&caches[i], static_cast<std::int64_t>(end - begin)});
      }
      Matrix hidden(std::ssize(tokens), 24);
      model.forward(tokens, parts, hidden.view());
      const float* from = hidden.values.data();
      for (std::size_t i = 0; i < 3; ++i)
        for (std::int64_t end = parts[i].count * 24; end > 0; --end) found[i].push_back(*from++);
    }
    for (std::size_t i = 0; i < 3; ++i) {
      INFO(golden.name << ", text " << i);
      KvCache cache(model.config(), std::ssize(texts[i]), KvType::Half);
      Matrix alone(std::ssize(texts[i]), 24);
      model.forward(texts[i], cache, alone.view());
      CHECK(found[i] == alone.values);
      CHECK(caches[i].size() == std::ssize(texts[i]));
    }
  }
}

TEST_CASE("a text whose numbers become infinite is named among those read together", "[model][transformer]") {
  Transformer model = load_tiny(tiny_config("llama"));
  Matrix embedding = *require_dense(model.weights.embedding, "");
  embedding.row(7)[3] = std::numeric_limits<float>::infinity();
  model.weights.embedding.weight = share(std::move(embedding));
  KvCache one(model.config(), 4), other(model.config(), 4);
  const std::vector<TokenId> tokens{1, 2, 3, 4, 7};
  Matrix hidden(5, 24);
  const auto message = [&](const std::vector<TextPart>& parts) {
    return message_of<higgs::FormatError>([&] { model.forward(tokens, parts, hidden.view()); });
  };
  CHECK_THAT(message({{&one, 3}, {&other, 2}}), Catch::Contains("token 1 of text 2 becomes"));
  CHECK_THROWS_AS(model.forward(tokens, {{&one, 5}, {&other, 0}}, hidden.view()), higgs::InvalidArgument);
  CHECK_THROWS_AS(model.next_logits({}, {{&one, 0}}, Matrix(1, 40).view()), higgs::InvalidArgument);
  CHECK_THROWS_AS(model.forward(tokens, {{&one, 2}, {&other, 2}}, hidden.view()), higgs::InvalidArgument);
}

TEST_CASE("keys and values of 16 bits move logits by their rounding", "[model][transformer]") {
  for (const Golden& golden : golden_models()) {
    const Transformer model = load_tiny(golden.config);
    const std::vector<float> expected = logits_of(model, tiny_text(24)),
                             logits =
                                 logits_of(model, tiny_text(24), higgs::default_executor(), KvType::Half);
    CHECK(logits != expected);
    // A rounding of 2^-11 in place of one of 2^-24, two in each of two blocks: far fewer than tolerance() counts.
    for (std::size_t i = 0; i < logits.size(); ++i)
      CHECK(std::fabs(static_cast<double>(logits[i] - expected[i])) < 0x1p13 * tolerance(expected) / 10);
  }
}

TEST_CASE("the number of threads changes no bit", "[model][transformer]") {
  const Transformer model = load_tiny(tiny_config("llama"));
  higgs::SerialExecutor one;
  higgs::ThreadPool five(5);
  CHECK(logits_of(model, tiny_text(64), one) == logits_of(model, tiny_text(64), five));
}

TEST_CASE("LongRoPE takes the factors of the longest text that the cache has room for",
          "[model][transformer]") {
  ModelConfig config = tiny_config("llama");
  config.rope_scaling = {.kind = RopeScaling::Kind::LongRope,
                         .original_context = 16,
                         .short_factor = {1, 1.5, 2},
                         .long_factor = {2, 3, 4}};
  const Transformer model = load_tiny(config);
  const auto hidden = [&](const Transformer& which, std::int64_t room) {
    KvCache cache(config, room);
    std::vector<float> out(10 * 24);
    which.forward(tiny_text(10), cache, {out.data(), 10, 24});
    return out;
  };
  config.rope_scaling.long_factor = config.rope_scaling.short_factor;
  CHECK(hidden(model, 16) == hidden(load_tiny(config), 17));
  CHECK(hidden(model, 17) != hidden(model, 16));
}

TEST_CASE("no token sees a later one", "[model][transformer]") {
  const Transformer model = load_tiny(tiny_config("qwen2"));
  std::vector<TokenId> text = tiny_text(60);
  const std::vector<float> before = logits_of(model, text);
  text[40] = (text[40] + 1) % 40;
  const std::vector<float> after = logits_of(model, text);
  CHECK(std::equal(before.begin(), before.begin() + 40 * 40, after.begin()));
  for (std::size_t row = 40; row < 60; ++row)
    CHECK_FALSE(std::equal(before.begin() + static_cast<std::ptrdiff_t>(row * 40),
                           before.begin() + static_cast<std::ptrdiff_t>(row * 40 + 40),
                           after.begin() + static_cast<std::ptrdiff_t>(row * 40)));
}

TEST_CASE("a layer may be replaced by a quantized one", "[model][transformer]") {
  const Transformer model = load_tiny(tiny_config("llama"));
  Transformer packed = model, dense = model;
  for (const BlockLinear& layer : block_linears(model.config())) {
    const auto quantized = higgs::quantize(require_dense(layer.in(model.weights), "")->view(), "2x256");
    Matrix values(layer.in(model.weights).rows(), layer.in(model.weights).cols());
    higgs::dequantize(quantized, values.view());
    layer.in(packed.weights).weight = higgs::PackedMatrix(quantized);
    layer.in(dense.weights).weight = share(std::move(values));
  }
  const std::vector<float> expected = logits_of(dense, tiny_text(24)),
                           logits = logits_of(packed, tiny_text(24));
  CHECK(expected != logits_of(model, tiny_text(24)));  // the original kept its weights
  // Each of the 14 products errs by at most 1e-4 of its RMS: its activations have 16 bits.
  for (std::size_t i = 0; i < logits.size(); ++i)
    CHECK(std::fabs(static_cast<double>(logits[i] - expected[i])) <
          14e-4 / (100 * 0x1p-24) * tolerance(expected));
}

TEST_CASE("misuse is refused", "[model][transformer]") {
  const Transformer model = load_tiny(tiny_config("llama"));
  KvCache cache(model.config(), 2);
  std::vector<float> hidden(3 * 24);
  const std::vector<TokenId> outside{40}, negative{-1}, three{1, 2, 3};
  CHECK_THROWS_AS(model.forward(outside, cache, {hidden.data(), 1, 24}), higgs::InvalidArgument);
  CHECK_THROWS_AS(model.forward(negative, cache, {hidden.data(), 1, 24}), higgs::InvalidArgument);
  CHECK_THROWS_AS(model.forward(three, cache, {hidden.data(), 3, 24}), higgs::InvalidArgument);
  CHECK_THROWS_AS(model.forward({three.data(), 2}, cache, {hidden.data(), 3, 24}), higgs::InvalidArgument);
  CHECK_THROWS_AS(cache.truncate(1), higgs::InvalidArgument);
}

TEST_CASE("a missing tensor and a wrong shape are named", "[model][transformer]") {
  const ModelConfig config = tiny_config("qwen2");
  const auto message_without = [&](const std::string& name) {
    std::vector<TinyTensor> tensors = tiny_tensors(config);
    std::erase_if(tensors, [&](const TinyTensor& tensor) { return tensor.name == name; });
    const TemporaryFolder folder;
    write_folder(folder.path(), config, tensors);
    return message_of<higgs::FormatError>([&] { Transformer::load(ModelSource(folder.path())); });
  };
  for (const TinyTensor& tensor : tiny_tensors(config))
    CHECK_THAT(message_without(tensor.name), Catch::Contains("tensor \"" + tensor.name + "\" is missing"));

  std::vector<TinyTensor> tensors = tiny_tensors(config);
  for (TinyTensor& tensor : tensors) {
    if (tensor.name != "model.layers.1.mlp.up_proj.weight") continue;
    tensor.shape = {24, 36};
  }
  const TemporaryFolder folder;
  write_folder(folder.path(), config, tensors);
  CHECK_THAT(message_of<higgs::FormatError>([&] { Transformer::load(ModelSource(folder.path())); }),
             Catch::Contains("\"model.layers.1.mlp.up_proj.weight\"") && Catch::Contains("24 x 36") &&
                 Catch::Contains("36 x 24"));
}

TEST_CASE("a token without a row in the embedding is named with both numbers", "[model][transformer]") {
  const Transformer model = load_tiny(tiny_config("llama"));
  std::vector<float> x(24);
  for (const TokenId token : {40, -1, 1000000}) {
    const std::vector<TokenId> text{token};
    CHECK_THAT(message_of<higgs::InvalidArgument>([&] { model.embed(text, {x.data(), 1, 24}); }),
               Catch::Contains("token " + std::to_string(token) + " ") && Catch::Contains("40 rows") &&
                   Catch::Contains("higgs-"));  // the folder
  }
}

TEST_CASE("activations that are not finite stop the model, whatever they come from", "[model][transformer]") {
  const Transformer sound = load_tiny(tiny_config("qwen3"));
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<TokenId> text = tiny_text(12);
  const auto message = [&](const Transformer& model) {
    return message_of<higgs::FormatError>([&] { logits_of(model, text); });
  };
  CHECK(message(sound).empty());
  for (std::size_t layer = 0; layer < 2; ++layer) {
    const std::string in_layer = " in layer " + std::to_string(layer) + ":",
                      place = "token 0 of the text becomes NaN or infinite" + in_layer;
    for (auto norm : {&Block::attention_norm, &Block::ffn_norm, &Block::q_norm, &Block::k_norm}) {
      Transformer model = sound;
      (model.weights.blocks[layer].*norm)[3] = nan;
      CHECK_THAT(message(model), Catch::Contains(place));
    }
    for (const BlockLinear& each : block_linears(sound.config()))
      for (const float wrong : {nan, std::numeric_limits<float>::infinity()}) {
        if (each.block != layer) continue;
        Transformer model = sound;
        Matrix matrix = *require_dense(each.in(model.weights), "");
        matrix.values[matrix.values.size() / 2] = wrong;
        each.in(model.weights).weight = share(std::move(matrix));
        CHECK_THAT(message(model), Catch::Contains("of the text") && Catch::Contains(in_layer));
      }
  }
  Transformer model = sound;
  Matrix embedding = *require_dense(model.weights.embedding, "");
  embedding.row(text[7])[1] = nan;
  model.weights.embedding.weight = share(std::move(embedding));
  const auto first = std::find(text.begin(), text.end(), text[7]) - text.begin();
  CHECK_THAT(message(model), Catch::Contains(": token " + std::to_string(first) + " of the text") &&
                                 Catch::Contains(" in layer 0:"));
  model = sound;
  model.weights.norm[0] = nan;
  CHECK_THAT(message(model), Catch::Contains("logit of token 0") && Catch::Contains("row 0"));
}
