// A team of threads that goes through the phases of a step together, without sleeping in between.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace tritium {

constexpr int kMostThreads = 256;
constexpr int kMostPieces = 1024;

// A phase is cut into pieces that may run side by side; piece p is first offered to thread p / per_thread.
struct Phase {
  uint16_t pieces = 1;
  uint16_t per_thread = 1;
};

// What a team does. A piece is run once, by one thread, after all pieces of the phase before have ended; what
// they wrote is seen. `thread` is below the number of threads the step was given.
class Work {
 public:
  virtual void run_piece(int phase, int piece, int thread) = 0;

 protected:
  ~Work() = default;
};

// Runs phases in order on at most `threads` threads with the caller's. The caller alone does everything if
// the threads are busy with another call, and what they leave lying if they get no processor: it waits only
// for a piece that a thread has begun. The first exception of a piece is thrown here. Safe after fork.
void run_phases(Work& work, const std::vector<Phase>& phases, int threads);

}  // namespace tritium
