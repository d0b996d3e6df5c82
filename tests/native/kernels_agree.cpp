// Runs every instruction set that this processor has against the scalar one, bit for bit, on many random
// inputs; then prints a digest of each kernel's results, which must be the same on every processor.
//
//     kernels_agree ROUNDS
#include <cstdio>
#include <cstdlib>

#include "agreement.h"

namespace tritium::agreement {
namespace {

const KernelTable& scalar_table() {
  const KernelTable* const* last = available_tables();
  while (last[1] != nullptr) ++last;
  return **last;
}

Bytes run(const Case& one, const KernelTable& table, uint64_t seed) {
  Random random(seed);
  return one.run(table, random);
}

// FNV-1a, 64 bits.
uint64_t digest(const Bytes& bytes, uint64_t hash) {
  for (const uint8_t byte : bytes) hash = (hash ^ byte) * 0x100000001b3;
  return hash;
}

bool agrees(const Case& one, const KernelTable& table, uint64_t seed, const Bytes& expected) {
  const Bytes found = run(one, table, seed);
  if (found == expected) return true;
  size_t at = 0;
  while (at < found.size() && at < expected.size() && found[at] == expected[at]) ++at;
  std::fprintf(stderr, "%s: %s and scalar differ at byte %zu of %zu, round %llu\n", one.kernel, table.name,
               at, expected.size(), static_cast<unsigned long long>(seed));
  return false;
}

bool check(const Case& one, uint64_t rounds) {
  uint64_t hash = 0xcbf29ce484222325;
  for (uint64_t seed = 0; seed < rounds; ++seed) {
    const Bytes expected = run(one, scalar_table(), seed);
    hash = digest(expected, hash);
    for (const KernelTable* const* table = available_tables(); *table != nullptr; ++table) {
      if (!agrees(one, **table, seed, expected)) return false;
    }
  }
  std::printf("%s %016llx\n", one.kernel, static_cast<unsigned long long>(hash));
  return true;
}

}  // namespace
}  // namespace tritium::agreement

int main(int count, char** arguments) {
  using namespace tritium;
  const uint64_t rounds = count == 2 ? std::strtoull(arguments[1], nullptr, 10) : 0;
  if (rounds == 0) {
    std::fprintf(stderr, "usage: kernels_agree ROUNDS\n");
    return 2;
  }
  std::printf("isas");
  for (const KernelTable* const* table = available_tables(); *table != nullptr; ++table) {
    std::printf(" %s", (*table)->name);
  }
  std::printf("\n");
  bool good = true;
  for (const auto cases : {agreement::matrix_cases(), agreement::coded_cases(), agreement::row_cases(),
                           agreement::quantization_cases()}) {
    for (const agreement::Case& one : cases) good &= agreement::check(one, rounds);
  }
  return good ? 0 : 1;
}
