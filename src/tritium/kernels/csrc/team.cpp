#include "team.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
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

constexpr int kPatience = 60;  // pauses before a thread that is late loses its piece: about a microsecond
constexpr int kSpins = 2000;   // pauses before a waiting thread offers its processor to others
constexpr int kIdleSpins =
    4000;  // pauses before a thread without a step falls asleep: about 100 microseconds
constexpr size_t kFirstTable = 1024;

void pause_briefly() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

void wait_turn(int spins) {
  if (spins < kSpins) {
    pause_briefly();
  } else {
    std::this_thread::yield();
  }
}

uint32_t packed(Phase phase) {
  return uint32_t{phase.pieces} << 16 | phase.per_thread;
}
Phase unpacked(uint32_t word) {
  return {static_cast<uint16_t>(word >> 16), static_cast<uint16_t>(word & 0xffff)};
}

// How far a piece is: 2n - 1 says that somebody runs it in phase n, 2n that it is done there. Phases are
// numbered through the life of the team, so a state never comes back.
struct alignas(64) PieceState {
  std::atomic<uint64_t> value{0};
};

// Whose pieces this thread had to take because their owner did not come.
struct Absences {
  std::array<uint64_t, kMostThreads> since{};  // number of the phase; 0: it is here

  bool is_absent(int owner) const { return since[static_cast<size_t>(owner)] != 0; }
  // Somebody else began a piece of the owner in phase `number`.
  void note_alive(int owner, uint64_t number) {
    uint64_t& phase = since[static_cast<size_t>(owner)];
    if (phase != number) phase = 0;
  }
};

// No thread is waited for because it belongs to the team, only because it has claimed a piece. A thread that
// comes too late finds the pieces claimed. It may even read the table of phases while the next step is being
// written there: it then sees that the generation has changed, or fails to claim, because a piece that exists
// in a phase is claimed before the phase ends.
class Team {
 public:
  // False when another call holds the team.
  bool run(Work& work, const std::vector<Phase>& phases, int threads) {
    const std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
    if (!turn.owns_lock()) return false;
    for (; size_ + 1 < threads; ++size_) std::thread([this, thread = size_ + 1] { serve(thread); }).detach();
    const uint32_t generation = publish(work, phases, threads);
    Absences absences;
    go_through(0, generation, absences);
    next_number_ += phases.size();
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
    return true;
  }

 private:
  // Even generations are steps; an odd one says that the next step is being written.
  uint32_t publish(Work& work, const std::vector<Phase>& phases, int threads) {
    const uint32_t generation = generation_.load(std::memory_order_relaxed) + 2;
    generation_.store(generation - 1, std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_release);
    grow_table(phases.size());
    std::atomic<uint32_t>* table = table_.load(std::memory_order_relaxed);
    for (size_t i = 0; i < phases.size(); ++i) table[i].store(packed(phases[i]), std::memory_order_relaxed);
    work_.store(&work, std::memory_order_relaxed);
    count_.store(phases.size(), std::memory_order_relaxed);
    threads_.store(threads, std::memory_order_relaxed);
    first_number_.store(next_number_, std::memory_order_relaxed);
    generation_.store(generation, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) > 0) {
      {
        const std::lock_guard<std::mutex> lock(sleep_);
      }
      wake_.notify_all();
    }
    return generation;
  }

  // Late threads may still read an old table: it stays.
  void grow_table(size_t size) {
    if (size <= table_size_) return;
    table_size_ = std::max(size, std::max(kFirstTable, table_size_ * 2));
    tables_.push_back(std::make_unique<std::atomic<uint32_t>[]>(table_size_));
    table_.store(tables_.back().get(), std::memory_order_relaxed);
  }

  bool is_current(uint32_t generation) const {
    std::atomic_thread_fence(std::memory_order_acquire);
    return generation_.load(std::memory_order_relaxed) == generation;
  }

  void go_through(int thread, uint32_t generation, Absences& absences) {
    const size_t count = count_.load(std::memory_order_relaxed);
    const uint64_t first = first_number_.load(std::memory_order_relaxed);
    const std::atomic<uint32_t>* table = table_.load(std::memory_order_relaxed);
    const bool takes_part = thread < threads_.load(std::memory_order_relaxed);
    if (!takes_part || !is_current(generation)) return;
    for (size_t i = 0; i < count; ++i) {
      const Phase phase = unpacked(table[i].load(std::memory_order_relaxed));
      if (!is_current(generation)) return;
      const int own = thread * phase.per_thread;
      for (int p = own; p < std::min<int>(own + phase.per_thread, phase.pieces); ++p) {
        take(static_cast<int>(i), first + i, p, thread);
      }
      wait_for_the_others(static_cast<int>(i), first + i, phase, thread, absences);
    }
  }

  // Ends when all pieces are done; those that nobody begins in time are done here.
  void wait_for_the_others(int index, uint64_t number, Phase phase, int thread, Absences& absences) {
    for (int spins = 0;; ++spins) {
      bool complete = true;
      for (int p = 0; p < phase.pieces; ++p) {
        const uint64_t state = pieces_[p].value.load(std::memory_order_acquire);
        const int owner = p / phase.per_thread;
        if (state + 1 >= 2 * number) absences.note_alive(owner, number);
        if (state >= 2 * number) continue;
        complete = false;
        if (state + 1 < 2 * number && (spins >= kPatience || absences.is_absent(owner)) &&
            take(index, number, p, thread)) {
          absences.since[static_cast<size_t>(owner)] = number;
        }
      }
      if (complete) return;
      wait_turn(spins);
    }
  }

  // Runs a piece unless somebody has claimed it already.
  bool take(int index, uint64_t number, int piece, int thread) {
    std::atomic<uint64_t>& state = pieces_[piece].value;
    uint64_t before = state.load(std::memory_order_relaxed);
    if (before + 1 >= 2 * number) return false;
    if (!state.compare_exchange_strong(before, 2 * number - 1, std::memory_order_acquire)) return false;
    try {
      work_.load(std::memory_order_relaxed)->run_piece(index, piece, thread);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(sleep_);
      failure_ = std::current_exception();
    }
    state.store(2 * number, std::memory_order_release);
    return true;
  }

  void serve(int thread) {
    uint32_t seen = 0;
    Absences absences;
    for (;;) {
      seen = wait_for_other_than(seen);
      go_through(thread, seen, absences);
    }
  }

  uint32_t wait_for_other_than(uint32_t seen) {
    const auto next = [&] {
      const uint32_t found = generation_.load(std::memory_order_seq_cst);
      return found != seen && found % 2 == 0 ? found : seen;
    };
    for (int spin = 0; spin < kIdleSpins; ++spin) {
      if (const uint32_t found = next(); found != seen) return found;
      pause_briefly();
    }
    std::unique_lock<std::mutex> lock(sleep_);
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    wake_.wait(lock, [&] { return next() != seen; });
    sleepers_.fetch_sub(1, std::memory_order_relaxed);
    return next();
  }

  std::mutex turn_;   // held by the call that uses the team
  std::mutex sleep_;  // guards the wake-up, and failure_
  std::condition_variable wake_;
  std::atomic<int> sleepers_{0};
  std::exception_ptr failure_;
  alignas(64) std::atomic<uint32_t> generation_{0};
  // The step, valid while generation_ is what it was.
  std::atomic<Work*> work_{nullptr};
  std::atomic<size_t> count_{0};
  std::atomic<int> threads_{0};
  std::atomic<uint64_t> first_number_{1};
  std::atomic<std::atomic<uint32_t>*> table_{nullptr};
  std::array<PieceState, kMostPieces> pieces_;
  // Of the call that holds the team.
  std::vector<std::unique_ptr<std::atomic<uint32_t>[]>> tables_;
  size_t table_size_ = 0;
  uint64_t next_number_ = 1;
  int size_ = 0;
};

// Never deleted: its threads live until the process ends. A forked child has none of them and starts afresh.
std::atomic<Team*>& current_team() {
  static std::atomic<Team*> team = [] {
#ifndef _WIN32
    pthread_atfork(nullptr, nullptr, [] { current_team().store(new Team); });
#endif
    return new Team;
  }();
  return team;
}

}  // namespace

void run_phases(Work& work, const std::vector<Phase>& phases, int threads) {
  const bool has_parallel =
      std::any_of(phases.begin(), phases.end(), [](Phase phase) { return phase.pieces > 1; });
  if (threads > 1 && has_parallel &&
      current_team().load()->run(work, phases, std::min(threads, kMostThreads)))
    return;
  for (size_t i = 0; i < phases.size(); ++i) {
    for (int piece = 0; piece < phases[i].pieces; ++piece) work.run_piece(static_cast<int>(i), piece, 0);
  }
}

}  // namespace tritium
