#include "probe.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <thread>
#include <vector>
#ifdef __linux__
#include <sys/mman.h>
#endif
#ifdef TRITIUM_X86
#include <immintrin.h>
#endif

#include "table.h"

namespace tritium {
namespace {

constexpr size_t kMemory = size_t{512} << 20;  // far beyond every cache
constexpr size_t kPage = size_t{2} << 20;
constexpr size_t kPiece = size_t{4} << 20;
constexpr size_t kAhead = 4096;
constexpr int64_t kRounds = 1 << 16;

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Runs `work(thread)`, which returns how much it did, over and over on every thread at once; returns the sum
// of the threads' own rates. All begin together, and go on until all have measured long enough.
template <typename Work>
double total_rate(int threads, double seconds, Work work) {
  std::atomic<int> ready{0}, done{0};
  std::vector<double> rates(static_cast<size_t>(threads));
  const auto measure = [&](int thread) {
    work(thread);
    ready.fetch_add(1);
    while (ready.load() < threads) std::this_thread::yield();
    double amount = 0;
    const Clock::time_point begin = Clock::now();
    double elapsed = 0;
    while ((elapsed = seconds_since(begin)) < seconds) amount += work(thread);
    rates[static_cast<size_t>(thread)] = amount / elapsed;
    done.fetch_add(1);
    while (done.load() < threads) work(thread);
  };
  std::vector<std::thread> helpers;
  for (int thread = 1; thread < threads; ++thread) helpers.emplace_back(measure, thread);
  measure(0);
  for (std::thread& helper : helpers) helper.join();
  double sum = 0;
  for (const double rate : rates) sum += rate;
  return sum;
}

uint64_t sum_words(const unsigned char* memory, size_t count) {
  constexpr size_t kStep = 256;
  uint64_t sums[kStep / 8] = {};
  for (size_t at = 0; at < count; at += kStep) {
    for (size_t line = 0; line < kStep; line += 64) __builtin_prefetch(memory + at + kAhead + line);
    uint64_t words[kStep / 8];
    std::memcpy(words, memory + at, kStep);
    for (size_t i = 0; i < kStep / 8; ++i) sums[i] += words[i];
  }
  uint64_t sum = 0;
  for (const uint64_t value : sums) sum += value;
  return sum;
}

#ifdef TRITIUM_X86
#define TRITIUM_FOR(isa) __attribute__((target(isa)))

// The empty statements tell the compiler that the sums matter and may have changed.
TRITIUM_FOR("avx512f,avx512vnni") double multiply_vnni() {
  __m512i x = _mm512_set1_epi8(1), a{}, b{}, c{}, d{}, e{}, f{}, g{}, h{};  // eight chains hide the latency
  for (int64_t round = 0; round < kRounds; ++round) {
    a = _mm512_dpbusd_epi32(a, x, x), b = _mm512_dpbusd_epi32(b, x, x);
    c = _mm512_dpbusd_epi32(c, x, x), d = _mm512_dpbusd_epi32(d, x, x);
    e = _mm512_dpbusd_epi32(e, x, x), f = _mm512_dpbusd_epi32(f, x, x);
    g = _mm512_dpbusd_epi32(g, x, x), h = _mm512_dpbusd_epi32(h, x, x);
    asm volatile("" : "+v"(a), "+v"(b), "+v"(c), "+v"(d), "+v"(e), "+v"(f), "+v"(g), "+v"(h));
  }
  return 8.0 * 128 * kRounds;
}

// Four registers of sums hide the latency; all but those are zeros.
TRITIUM_FOR("amx-tile,amx-int8") double multiply_amx() {
  struct alignas(64) {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16};
  } shape;
  asm volatile("" ::"r"(&shape) : "memory");
  _tile_loadconfig(&shape);
  for (int64_t round = 0; round < kRounds; ++round) {
    _tile_dpbssd(0, 4, 5);
    _tile_dpbssd(1, 4, 5);
    _tile_dpbssd(2, 4, 5);
    _tile_dpbssd(3, 4, 5);
  }
  _tile_release();
  return 4.0 * 2 * 16 * 16 * 64 * kRounds;
}

TRITIUM_FOR("avx2") double multiply_avx2() {
  __m256i x = _mm256_set1_epi8(1), a{}, b{}, c{}, d{}, e{}, f{};
  for (int64_t round = 0; round < kRounds; ++round) {
    __m256i p, q, r, s, t, u;
    asm volatile(
        "vpmaddubsw %6, %6, %0\n vpmaddubsw %6, %6, %1\n vpmaddubsw %6, %6, %2\n"
        "vpmaddubsw %6, %6, %3\n vpmaddubsw %6, %6, %4\n vpmaddubsw %6, %6, %5"
        : "=&x"(p), "=&x"(q), "=&x"(r), "=&x"(s), "=&x"(t), "=&x"(u)
        : "x"(x));
    a = _mm256_add_epi16(a, p), b = _mm256_add_epi16(b, q), c = _mm256_add_epi16(c, r);
    d = _mm256_add_epi16(d, s), e = _mm256_add_epi16(e, t), f = _mm256_add_epi16(f, u);
    asm volatile("" : "+x"(a), "+x"(b), "+x"(c), "+x"(d), "+x"(e), "+x"(f));
  }
  return 6.0 * 64 * kRounds;
}
#endif

}  // namespace

double read_bandwidth(int threads, double seconds) {
  const std::align_val_t alignment{kPage};
  const auto release = [&](void* memory) { ::operator delete(memory, alignment); };
  const size_t size = kMemory + kPage;  // prefetches run ahead of the end
  const std::unique_ptr<void, decltype(release)> memory(::operator new(size, alignment), release);
#ifdef __linux__
  madvise(memory.get(), size, MADV_HUGEPAGE);
#endif
  std::memset(memory.get(), 1, size);
  const auto* bytes = static_cast<const unsigned char*>(memory.get());
  const size_t share = kMemory / static_cast<size_t>(threads) / kPiece * kPiece;
  std::vector<size_t> position(static_cast<size_t>(threads) * 64);  // apart: no line is shared
  std::atomic<uint64_t> total{0};
  return total_rate(threads, seconds, [&](int thread) {
    size_t& at = position[static_cast<size_t>(thread) * 64];
    total.fetch_add(sum_words(bytes + static_cast<size_t>(thread) * share + at, kPiece),
                    std::memory_order_relaxed);
    at = (at + kPiece) % share;
    return static_cast<double>(kPiece);
  });
}

double peak_int8(int threads, double seconds) {
#ifdef TRITIUM_X86
  if (std::strcmp(table().name, "avx512_amx") == 0) {
    return total_rate(threads, seconds, [](int) { return multiply_amx(); });
  }
  if (std::strncmp(table().name, "avx512", 6) == 0) {
    return total_rate(threads, seconds, [](int) { return multiply_vnni(); });
  }
  if (std::strcmp(table().name, "avx2") == 0) {
    return total_rate(threads, seconds, [](int) { return multiply_avx2(); });
  }
#endif
  static_cast<void>(threads);
  static_cast<void>(seconds);
  return 0;
}

}  // namespace tritium
