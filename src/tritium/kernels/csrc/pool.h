// Runs a loop on several threads that stay alive between calls.
#pragma once

#include <cstdint>
#include <functional>

namespace tritium {

// Calls `work(begin, end)` until [0, count) is covered, in pieces that are multiples of `grain`, on at most
// `threads` threads including the caller's. Which thread takes which piece is open: pieces must not share
// results. A call made while another one holds the threads runs on the caller's thread alone. Safe after
// fork. `item_nanoseconds` is roughly what one item takes on one thread: little work is not shared, because
// waking a thread, and waiting for one that lost its processor, costs more than it saves.
void parallel_for(int64_t count, int64_t grain, int threads, double item_nanoseconds,
                  const std::function<void(int64_t, int64_t)>& work);

}  // namespace tritium
