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

void pause_briefly() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

class Pool {
 public:
  // False when another call holds the pool.
  bool run(int64_t count, int64_t piece, int helpers, const std::function<void(int64_t, int64_t)>& work) {
    std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
    if (!turn.owns_lock()) return false;
    while (size_ < helpers) {
      std::thread([this, index = size_, seen = generation_.load()] { serve(index, seen); }).detach();
      ++size_;
    }
    work_ = &work;
    count_ = count;
    piece_ = piece;
    helpers_ = helpers;
    next_.store(0, std::memory_order_relaxed);
    busy_.store(size_, std::memory_order_relaxed);
    {
      const std::lock_guard<std::mutex> lock(sleep_);
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    take_pieces();
    wait_until_idle();
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
    return true;
  }

 private:
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

  void wait_until_idle() {
    for (int spin = 0; busy_.load(std::memory_order_acquire) != 0; ++spin) {
      if (spin < kSpins) {
        pause_briefly();
      } else {
        std::this_thread::yield();
      }
    }
  }

  void serve(int index, uint64_t seen) {
    for (;;) {
      for (int spin = 0; spin < kSpins && generation_.load(std::memory_order_acquire) == seen; ++spin) {
        pause_briefly();
      }
      if (generation_.load(std::memory_order_acquire) == seen) {
        std::unique_lock<std::mutex> lock(sleep_);
        wake_.wait(lock, [&] { return generation_.load(std::memory_order_acquire) != seen; });
      }
      ++seen;  // the caller waits for every thread, so no generation is ever skipped
      if (index < helpers_) take_pieces();
      busy_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::mutex turn_;  // held by the call that uses the pool
  std::mutex sleep_;
  std::condition_variable wake_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int64_t> next_{0};
  std::atomic<int> busy_{0};
  std::exception_ptr failure_;
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

void parallel_for(int64_t count, int64_t grain, int threads,
                  const std::function<void(int64_t, int64_t)>& work) {
  const int64_t grains = (count + grain - 1) / grain;
  const int helpers = static_cast<int>(std::min<int64_t>(threads, grains)) - 1;
  if (helpers >= 1) {
    const int64_t pieces = std::min<int64_t>(grains, static_cast<int64_t>(helpers + 1) * kPiecesPerThread);
    const int64_t piece = (grains + pieces - 1) / pieces * grain;
    if (current_pool().load()->run(count, piece, helpers, work)) return;
  }
  if (count > 0) work(0, count);
}

}  // namespace tritium
