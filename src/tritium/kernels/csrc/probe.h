// What this machine can do at best: benchmarks state their figures beside it.
#pragma once

namespace tritium {

// Bytes per second that so many threads together read from memory no cache holds.
double read_bandwidth(int threads, double seconds);

// int8 multiplies and adds per second of so many threads, by the instruction the kernels of the table in use
// are built on: tdpbssd, vpdpbusd or vpmaddubsw. 0 where they use none of them.
double peak_int8(int threads, double seconds);

}  // namespace tritium
