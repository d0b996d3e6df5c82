#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>

#include "plan_operations.h"
#include "pool_view.h"
#include "views.h"

namespace tritium {
namespace {

// Pools of a cache, one for every layer, and what keeps them alive.
struct CachePools {
  CachePools(std::vector<WritableArray> pools, int64_t head_dim) : owners(std::move(pools)) {
    require(!owners.empty(), "A cache has a pool for every layer.");
    cache.shape = pool_of(owners.front(), head_dim);
    for (const WritableArray& owner : owners) {
      const KvPool pool = pool_of(owner, head_dim);
      require(pool.type == cache.shape.type && pool.blocks == cache.shape.blocks &&
                  pool.heads == cache.shape.heads,
              "All pools of a cache have the same shape and dtype.");
      cache.pools.push_back(pool.memory);
    }
  }

  Cache cache;
  std::vector<WritableArray> owners;
};

// Logits that Python has let go are used again: a fresh array of that size costs more than it is worth.
class LogitPool {
 public:
  explicit LogitPool() = default;
  LogitPool(const LogitPool&) = delete;
  LogitPool& operator=(const LogitPool&) = delete;
  ~LogitPool() {
    for (const auto& [memory, size] : free_) ::operator delete(memory, kAlignment);
  }

  float* take(size_t size) {
    const std::lock_guard<std::mutex> lock(guard_);
    for (auto one = free_.begin(); one != free_.end(); ++one) {
      if (one->second < size || one->second > 4 * size + kSmall) continue;
      float* memory = one->first;
      taken_[memory] = one->second;
      free_.erase(one);
      return memory;
    }
    auto* memory = static_cast<float*>(::operator new(size, kAlignment));
    taken_[memory] = size;
    return memory;
  }

  void give_back(float* memory) {
    const std::lock_guard<std::mutex> lock(guard_);
    const auto found = taken_.find(memory);
    free_.emplace_back(memory, found->second);
    taken_.erase(found);
    if (free_.size() > kMostFree) {
      ::operator delete(free_.front().first, kAlignment);
      free_.erase(free_.begin());
    }
  }

 private:
  static constexpr std::align_val_t kAlignment{64};
  static constexpr size_t kMostFree = 2, kSmall = 1 << 20;

  std::mutex guard_;
  std::vector<std::pair<float*, size_t>> free_;
  std::map<float*, size_t> taken_;
};

constexpr const char* kHeadsAreShared = "heads must be a multiple of kv_heads.";

// The plan as Python records and runs it: it keeps the arrays of the weights.
class BoundPlan {
 public:
  explicit BoundPlan(int64_t max_positions) : max_positions_(max_positions) {}

  ValueId embed(const Array& weight) {
    const DenseView table = dense(weight);
    vocabulary_ = table.rows;
    return record_embed(plan_, table);
  }
  ValueId rms_norm(ValueId x, const Array& weight, float eps) {
    const float* factor = floats(weight, "weight", {kAny});
    return record_rms_norm(plan_, x, factor, size_of(weight, 0), eps);
  }
  void head_norm(ValueId x, const Array& weight, float eps, int64_t kv_heads) {
    const float* factor = floats(weight, "weight", {kAny});
    const int64_t dim = size_of(weight, 0);
    require(dim >= 1 && kv_heads >= 1, "A norm of heads has the width of one.");
    const int64_t heads = plan_.value(x).width / dim;
    require(heads >= 1 && heads % kv_heads == 0, kHeadsAreShared);
    record_head_norm(plan_, x, factor, eps, heads, {heads, kv_heads, dim, 0, 0.0f, 0, 0.0f});
  }
  void scale(ValueId x, float factor) { record_scale(plan_, x, factor); }
  void bound(ValueId x, float cap) {
    require(cap > 0.0f && std::isfinite(cap), "A cap is a positive number.");
    record_bound(plan_, x, cap);
  }
  ValueId quantize(ValueId x) {
    const Quantized made = record_quantize(plan_, x);
    scales_[made.q] = made.scale;
    return made.q;
  }
  ValueId dense_linear(ValueId x, const Array& weight, const nb::object& bias, const std::string& kind) {
    const DenseView view = dense(weight);
    return record_dense(plan_, x, view, bias_of(bias, view.rows), name(kind));
  }
  ValueId ternary(ValueId q, const nb::object& weight, const nb::object& bias) {
    const auto& prepared = nb::cast<const PreparedWeight&>(weight);
    weights_.push_back(weight);
    return record_ternary(plan_, quantized(q), prepared, bias_of(bias, prepared.view().rows));
  }
  ValueId coded_embed(const nb::object& weight) {
    const auto& table = nb::cast<const CodedMatrix&>(weight);
    weights_.push_back(weight);
    vocabulary_ = table.view().rows;
    return record_coded_embed(plan_, table);
  }
  ValueId ternary_embed(const nb::object& weight) {
    const auto& table = nb::cast<const PreparedWeight&>(weight);
    weights_.push_back(weight);
    vocabulary_ = table.view().rows;
    return record_ternary_embed(plan_, table);
  }
  ValueId coded(ValueId q, const nb::object& weight, const std::string& kind) {
    const auto& matrix = nb::cast<const CodedMatrix&>(weight);
    weights_.push_back(weight);
    return record_coded(plan_, quantized(q), matrix, name(kind));
  }
  ValueId angles(const Array& frequencies, float scaling) {
    const float* values = floats(frequencies, "inv_freq", {kAny});
    return record_angles(plan_, values, size_of(frequencies, 0), scaling);
  }
  void rope(ValueId x, ValueId angles, int64_t heads, int64_t kv_heads) {
    require(heads >= 1 && kv_heads >= 1 && heads % kv_heads == 0, kHeadsAreShared);
    record_rope(plan_, x, angles, heads, {heads, kv_heads, plan_.value(angles).width, 0, 0.0f, 0, 0.0f});
  }
  ValueId attention(ValueId q, ValueId k, ValueId v, int64_t layer, int64_t heads, int64_t kv_heads,
                    float scale, int64_t window, float cap) {
    require(window >= 0, "A window has at least one position; 0 means none.");
    require(cap >= 0.0f && std::isfinite(cap), "A cap of scores is a positive number; 0 means none.");
    require(heads >= 1 && kv_heads >= 1 && heads % kv_heads == 0, kHeadsAreShared);
    const int64_t dim = plan_.value(k).width / kv_heads;
    require(layer >= 0 && dim >= 1 && (kv_heads_ == 0 || (kv_heads == kv_heads_ && dim == dim_)),
            "All layers of a plan have the same heads.");
    kv_heads_ = kv_heads;
    dim_ = dim;
    layers_ = std::max(layers_, layer + 1);
    const AttentionShape shape{heads, kv_heads, dim, layer, scale, window, cap};
    return record_attention(plan_, q, record_write_kv(plan_, k, v, shape), shape);
  }
  ValueId gate(Activation activation, ValueId gate, ValueId up) {
    return record_gate(plan_, activation, gate, up);
  }
  ValueId add(ValueId a, ValueId b) { return record_add(plan_, a, b); }
  ValueId logit_rows(ValueId x) { return record_logit_rows(plan_, x); }
  void seal(ValueId output) { plan_.seal(output); }

  nb::object run(const Array& token_ids, const Array& positions, const Array& sequence_starts,
                 const Array& block_tables, const Array& context_lengths, const Array& slots,
                 const Array& logit_rows, const CachePools& pools, int threads) {
    require(plan_.is_sealed(), "The plan must be sealed before it runs.");
    require_threads(threads);
    Batch batch{};
    batch.tokens = size_of(token_ids, 0);
    batch.sequences = size_of(block_tables, 0);
    batch.table_width = size_of(block_tables, 1);
    batch.logit_count = size_of(logit_rows, 0);
    batch.token_ids = elements<const int32_t>(token_ids, "token_ids", {kAny});
    batch.positions = elements<const int32_t>(positions, "positions", {batch.tokens});
    batch.sequence_starts =
        elements<const int32_t>(sequence_starts, "sequence_starts", {batch.sequences + 1});
    batch.block_tables = elements<const int32_t>(block_tables, "block_tables", {kAny, kAny});
    batch.context_lengths = elements<const int32_t>(context_lengths, "context_lengths", {batch.sequences});
    batch.slots = elements<const int64_t>(slots, "slots", {batch.tokens});
    batch.logit_rows = elements<const int32_t>(logit_rows, "logit_rows", {kAny});
    batch.cache = &pools.cache;
    require_rows(batch);
    require_pages(batch);
    const size_t width = static_cast<size_t>(plan_.output_width());
    const size_t count = static_cast<size_t>(batch.logit_count);
    float* logits = logits_->take(std::max<size_t>(count * width, 1) * sizeof(float));
    nb::capsule owner(new Lent{logits_, logits},
                      [](void* lent) noexcept { delete static_cast<Lent*>(lent); });
    bool is_finite = false;
    {
      nb::gil_scoped_release released;
      is_finite = plan_.run(batch, logits, threads);
    }
    if (!is_finite) return nb::none();
    return nb::cast(Result<float>(logits, {count, width}, owner));
  }

  void set_profiling(bool is_on) { plan_.set_profiling(is_on); }
  int64_t phase_count() const { return plan_.phase_count(); }
  nb::list times() const {
    nb::list all;
    for (const OperationTime& time : plan_.times()) {
      all.append(nb::make_tuple(time.kind, time.pieces, time.nanoseconds));
    }
    return all;
  }

 private:
  struct Lent {
    Lent(std::shared_ptr<LogitPool> pool, float* memory) : pool(std::move(pool)), memory(memory) {}
    Lent(const Lent&) = delete;
    Lent& operator=(const Lent&) = delete;
    ~Lent() { pool->give_back(memory); }

    std::shared_ptr<LogitPool> pool;
    float* memory;
  };

  Quantized quantized(ValueId q) const {
    const auto scale = scales_.find(q);
    require(scale != scales_.end(), "This layer reads what quantize() made.");
    return {q, scale->second};
  }

  // Operations keep the pointer.
  const char* name(const std::string& kind) {
    names_.push_back(std::make_unique<std::string>(kind));
    return names_.back()->c_str();
  }

  const float* floats(const Array& array, const char* name, std::initializer_list<int64_t> shape) {
    const auto* memory = elements<const float>(array, name, shape);
    owners_.push_back(array);
    return memory;
  }

  DenseView dense(const Array& weight) {
    DenseView view{nullptr, nullptr, size_of(weight, 0), size_of(weight, 1)};
    if (holds<uint16_t>(weight)) {
      view.halves = elements<const uint16_t>(weight, "weight", {kAny, kAny});
    } else {
      view.floats = elements<const float>(weight, "weight", {kAny, kAny});
    }
    owners_.push_back(weight);
    return view;
  }

  const float* bias_of(const nb::object& bias, int64_t width) {
    return bias.is_none() ? nullptr : floats(nb::cast<Array>(bias), "bias", {width});
  }

  void require_rows(const Batch& batch) const {
    for (int64_t row = 0; row < batch.tokens; ++row) {
      const int32_t id = batch.token_ids[row], position = batch.positions[row];
      require(id >= 0 && id < vocabulary_,
              "A token id is outside the vocabulary of " + std::to_string(vocabulary_) + " tokens.");
      require(
          position >= 0 && position < max_positions_,
          "A sequence is longer than the model's context of " + std::to_string(max_positions_) + " tokens.");
    }
    for (int64_t i = 0; i < batch.logit_count; ++i) {
      require(batch.logit_rows[i] >= 0 && batch.logit_rows[i] < batch.tokens,
              "logit_rows names row " + std::to_string(batch.logit_rows[i]) + " of " +
                  std::to_string(batch.tokens) + ".");
    }
  }

  void require_pages(const Batch& batch) const {
    const KvPool& pool = batch.cache->shape;
    const auto layers = static_cast<int64_t>(batch.cache->pools.size());
    const bool attends = kv_heads_ > 0;
    require(!attends || (pool.heads == kv_heads_ && pool.dim == dim_ && layers >= layers_),
            "The cache has not the shape of this model.");
    const int32_t* starts = batch.sequence_starts;
    require(starts[0] == 0 && starts[batch.sequences] == batch.tokens,
            "sequence_starts must begin with 0 and end with the number of tokens.");
    for (int64_t b = 0; b < batch.sequences; ++b) {
      const int64_t count = int64_t{starts[b + 1]} - starts[b], length = batch.context_lengths[b];
      require(count >= 0 && starts[b] >= 0 && starts[b + 1] <= batch.tokens,
              "sequence_starts must not fall.");
      require(length >= count && length <= batch.table_width * kPagePositions,
              "context_lengths[" + std::to_string(b) + "] = " + std::to_string(length) +
                  " must cover its tokens and fit its block table.");
      for (int64_t i = 0; i * kPagePositions < length; ++i) {
        const int32_t block = batch.block_tables[b * batch.table_width + i];
        require(block >= 0 && block < pool.blocks, "block_tables names block " + std::to_string(block) +
                                                       " of a pool of " + std::to_string(pool.blocks) + ".");
      }
    }
    for (int64_t row = 0; row < batch.tokens; ++row) {
      require(batch.slots[row] >= 0 && batch.slots[row] < pool.blocks * kPagePositions,
              "slot " + std::to_string(batch.slots[row]) + " is outside the cache.");
    }
  }

  Plan plan_;
  std::vector<Array> owners_;
  std::vector<nb::object> weights_;
  std::vector<std::unique_ptr<std::string>> names_;
  std::map<ValueId, ValueId> scales_;  // of quantized values
  std::shared_ptr<LogitPool> logits_ = std::make_shared<LogitPool>();
  int64_t max_positions_;
  int64_t vocabulary_ = 0;
  int64_t layers_ = 0;
  int64_t kv_heads_ = 0;
  int64_t dim_ = 0;
};

}  // namespace

void bind_plan(nb::module_& m) {
  nb::class_<CachePools>(m, "CachePools")
      .def(nb::init<std::vector<WritableArray>, int64_t>(), nb::arg("pools"), nb::arg("head_dim"));
  nb::class_<BoundPlan>(m, "Plan")
      .def(nb::init<int64_t>(), nb::arg("max_positions"))
      .def("embed", &BoundPlan::embed, nb::arg("weight").noconvert())
      .def("rms_norm", &BoundPlan::rms_norm, nb::arg("x"), nb::arg("weight").noconvert(), nb::arg("eps"))
      .def("head_norm", &BoundPlan::head_norm, nb::arg("x"), nb::arg("weight").noconvert(), nb::arg("eps"),
           nb::arg("kv_heads"))
      .def("scale", &BoundPlan::scale, nb::arg("x"), nb::arg("factor"))
      .def("bound", &BoundPlan::bound, nb::arg("x"), nb::arg("cap"))
      .def("quantize", &BoundPlan::quantize, nb::arg("x"))
      .def("dense", &BoundPlan::dense_linear, nb::arg("x"), nb::arg("weight").noconvert(),
           nb::arg("bias").none(), nb::arg("kind"))
      .def("ternary", &BoundPlan::ternary, nb::arg("q"), nb::arg("weight"), nb::arg("bias").none())
      .def("coded_embed", &BoundPlan::coded_embed, nb::arg("weight"))
      .def("ternary_embed", &BoundPlan::ternary_embed, nb::arg("weight"))
      .def("coded", &BoundPlan::coded, nb::arg("q"), nb::arg("weight"), nb::arg("kind"))
      .def("angles", &BoundPlan::angles, nb::arg("inv_freq").noconvert(), nb::arg("scaling"))
      .def("rope", &BoundPlan::rope, nb::arg("x"), nb::arg("angles"), nb::arg("heads"), nb::arg("kv_heads"))
      .def("attention", &BoundPlan::attention, nb::arg("q"), nb::arg("k"), nb::arg("v"), nb::arg("layer"),
           nb::arg("heads"), nb::arg("kv_heads"), nb::arg("scale"), nb::arg("window"), nb::arg("cap"))
      .def(
          "silu_multiply",
          [](BoundPlan& plan, ValueId gate, ValueId up) { return plan.gate(Activation::kSilu, gate, up); },
          nb::arg("gate"), nb::arg("up"))
      .def(
          "relu2_multiply",
          [](BoundPlan& plan, ValueId gate, ValueId up) { return plan.gate(Activation::kRelu2, gate, up); },
          nb::arg("gate"), nb::arg("up"))
      .def(
          "gelu_tanh_multiply",
          [](BoundPlan& plan, ValueId gate, ValueId up) {
            return plan.gate(Activation::kGeluTanh, gate, up);
          },
          nb::arg("gate"), nb::arg("up"))
      .def("add", &BoundPlan::add, nb::arg("a"), nb::arg("b"))
      .def("logit_rows", &BoundPlan::logit_rows, nb::arg("x"))
      .def("seal", &BoundPlan::seal, nb::arg("output"))
      .def("run", &BoundPlan::run, nb::arg("token_ids").noconvert(), nb::arg("positions").noconvert(),
           nb::arg("sequence_starts").noconvert(), nb::arg("block_tables").noconvert(),
           nb::arg("context_lengths").noconvert(), nb::arg("slots").noconvert(),
           nb::arg("logit_rows").noconvert(), nb::arg("pools"), nb::arg("threads"))
      .def("set_profiling", &BoundPlan::set_profiling, nb::arg("is_on"))
      .def("times", &BoundPlan::times)
      .def_prop_ro("phase_count", &BoundPlan::phase_count);
}

}  // namespace tritium
