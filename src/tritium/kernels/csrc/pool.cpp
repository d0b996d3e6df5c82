#include "pool.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#ifndef _WIN32
#include <pthread.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace tritium {
namespace {

constexpr int kSpins = 2000;  // about 50 microseconds: longer than the gap between two layers
constexpr int kPiecesPerThread = 4;
constexpr double kWorthSharing = 20'000;  // nanoseconds of work for each thread

void pause_briefly() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

// A job is published by one word: its generation, whether it is open, and how many threads have joined it. A
// thread that wakes too late finds the job closed and is not waited for, so that a busy machine costs little.
class Pool {
 public:
  // False when another call holds the pool.
  bool run(int64_t count, int64_t piece, int helpers, const std::function<void(int64_t, int64_t)>& work) {
    std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
    if (!turn.owns_lock()) return false;
    for (; size_ < helpers; ++size_) std::thread([this, index = size_] { serve(index); }).detach();
    work_ = &work;
    count_ = count;
    piece_ = piece;
    helpers_ = helpers;
    next_.store(0, std::memory_order_relaxed);
    {
      const std::lock_guard<std::mutex> lock(sleep_);
      state_.store((generation_of(state_.load()) + 1) << kGenerationShift | kOpen);
    }
    wake_.notify_all();
    take_pieces();
    state_.fetch_and(~kOpen);
    wait_until_left();
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
    return true;
  }

 private:
  static constexpr int kGenerationShift = 32;
  static constexpr uint64_t kOpen = uint64_t{1} << 31;
  static constexpr uint64_t kJoined = kOpen - 1;

  static uint64_t generation_of(uint64_t state) { return state >> kGenerationShift; }

  void take_pieces() {
    for (;;) {
      const int64_t begin = next_.fetch_add(piece_, std::memory_order_relaxed);
      if (begin >= count_) return;
      try {
        (*work_)(begin, std::min(begin + piece_, count_));
      } catch (...) {
        const std::lock_guard<std::mutex> lock(sleep_);
        failure_ = std::current_exception();
      }
    }
  }

  void wait_until_left() {
    for (int spin = 0; (state_.load(std::memory_order_acquire) & kJoined) != 0; ++spin) {
      if (spin < kSpins) {
        pause_briefly();
      } else {
        std::this_thread::yield();
      }
    }
  }

  void serve(int index) {
    uint64_t seen = 0;
    for (;;) {
      wait_for_other_than(seen);
      uint64_t state = state_.load(std::memory_order_acquire);
      seen = generation_of(state);
      while ((state & kOpen) != 0 && generation_of(state) == seen) {
        if (!state_.compare_exchange_weak(state, state + 1)) continue;
        if (index < helpers_) take_pieces();
        state_.fetch_sub(1);
        break;
      }
    }
  }

  void wait_for_other_than(uint64_t seen) {
    const auto changed = [&] { return generation_of(state_.load(std::memory_order_acquire)) != seen; };
    for (int spin = 0; spin < kSpins; ++spin) {
      if (changed()) return;
      pause_briefly();
    }
    std::unique_lock<std::mutex> lock(sleep_);
    wake_.wait(lock, changed);
  }

  std::mutex turn_;   // held by the call that uses the pool
  std::mutex sleep_;  // guards the wake-up, and failure_
  std::condition_variable wake_;
  std::atomic<uint64_t> state_{0};
  std::atomic<int64_t> next_{0};
  std::exception_ptr failure_;
  // Written while no job is open, read only by threads that have joined.
  const std::function<void(int64_t, int64_t)>* work_ = nullptr;
  int64_t count_ = 0;
  int64_t piece_ = 1;
  int helpers_ = 0;
  int size_ = 0;
};

// Never deleted: its threads live until the process ends. A forked child has none of them and starts afresh.
std::atomic<Pool*>& current_pool() {
  static std::atomic<Pool*> pool = [] {
#ifndef _WIN32
    pthread_atfork(nullptr, nullptr, [] { current_pool().store(new Pool); });
#endif
    return new Pool;
  }();
  return pool;
}

}  // namespace

void parallel_for(int64_t count, int64_t grain, int threads, double item_nanoseconds,
                  const std::function<void(int64_t, int64_t)>& work) {
  const int64_t grains = (count + grain - 1) / grain;
  const auto worthwhile = static_cast<int64_t>(item_nanoseconds * static_cast<double>(count) / kWorthSharing);
  const int helpers = static_cast<int>(std::min({int64_t{threads}, grains, worthwhile})) - 1;
  if (helpers >= 1) {
    const int64_t pieces = std::min<int64_t>(grains, static_cast<int64_t>(helpers + 1) * kPiecesPerThread);
    const int64_t piece = (grains + pieces - 1) / pieces * grain;
    if (current_pool().load()->run(count, piece, helpers, work)) return;
  }
  if (count > 0) work(0, count);
}

}  // namespace tritium
