#include "pool.h"

#include <algorithm>

#include "team.h"

namespace tritium {
namespace {

constexpr int kPiecesPerThread = 4;
constexpr double kWorthSharing = 20'000;  // nanoseconds of work for each thread

// A loop is a step of one phase.
class Loop final : public Work {
 public:
  Loop(int64_t count, int64_t grain, int64_t pieces, const std::function<void(int64_t, int64_t)>& work)
      : count_(count), grain_(grain), pieces_(pieces), work_(work) {}

  void run_piece(int, int piece, int) override {
    const int64_t grains = (count_ + grain_ - 1) / grain_;
    const auto bound = [&](int64_t p) { return std::min(grains * p / pieces_ * grain_, count_); };
    work_(bound(piece), bound(piece + 1));
  }

 private:
  int64_t count_, grain_, pieces_;
  const std::function<void(int64_t, int64_t)>& work_;
};

}  // namespace

void parallel_for(int64_t count, int64_t grain, int threads, double item_nanoseconds,
                  const std::function<void(int64_t, int64_t)>& work) {
  if (count <= 0) return;
  const int64_t grains = (count + grain - 1) / grain;
  const auto worthwhile = static_cast<int64_t>(item_nanoseconds * static_cast<double>(count) / kWorthSharing);
  const int used = static_cast<int>(std::min({int64_t{threads}, int64_t{kMostThreads}, grains, worthwhile}));
  if (used <= 1) return work(0, count);
  const int64_t pieces = std::min<int64_t>(grains, int64_t{used} * kPiecesPerThread);
  const int64_t per_thread = (pieces + used - 1) / used;
  Loop loop(count, grain, pieces, work);
  run_phases(loop, {{static_cast<uint16_t>(pieces), static_cast<uint16_t>(per_thread)}}, used);
}

}  // namespace tritium
