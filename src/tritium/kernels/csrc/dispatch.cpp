// Chooses the instruction set when the module loads, and again when a test or TRITIUM_ISA asks for one.
#include <atomic>
#include <cstring>

#if defined(TRITIUM_ARM) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif
#if defined(TRITIUM_X86) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "table.h"

namespace tritium {
namespace {

#ifdef TRITIUM_ARM
bool has_dot_products() {
#if defined(__linux__)
  return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#elif defined(__APPLE__)
  return true;  // every Apple processor of this architecture has them
#else
  return false;
#endif
}

bool has_matrix_products() {
#if defined(__linux__)
  return has_dot_products() && (getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0;
#else
  return false;
#endif
}
#endif

#ifdef TRITIUM_X86
// The matrix registers take 8 KB of every thread's state, so a process has to ask the system for them.
bool may_use_matrix_registers() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kMatrixData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kMatrixData) == 0;
#else
  return false;
#endif
}

bool has_matrix_registers() {
  return __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-int8") &&
         __builtin_cpu_supports("gfni") && may_use_matrix_registers();
}

const KernelTable& amx_table() {
  static const KernelTable table = [] {
    KernelTable made = kAvx512VbmiTable;
    made.name = "avx512_amx";
    made.ternary_tiles = ternary_tiles_amx;
    return made;
  }();
  return table;
}
#endif

struct Available {
  const KernelTable* tables[6] = {};

  Available() {
    int count = 0;
#ifdef TRITIUM_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vnni")) {
      if (__builtin_cpu_supports("avx512vbmi")) {
        if (has_matrix_registers()) tables[count++] = &amx_table();
        tables[count++] = &kAvx512VbmiTable;
      }
      tables[count++] = &kAvx512VnniTable;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c")) tables[count++] = &kAvx2Table;
#endif
#ifdef TRITIUM_ARM
    if (has_matrix_products()) tables[count++] = &kNeonI8mmTable;
    if (has_dot_products()) tables[count++] = &kNeonDotprodTable;
#endif
    tables[count] = &kScalarTable;
  }
};

const Available& available() {
  static const Available found;
  return found;
}

std::atomic<const KernelTable*>& current() {
  static std::atomic<const KernelTable*> chosen{available().tables[0]};
  return chosen;
}

}  // namespace

const KernelTable& table() {
  return *current().load(std::memory_order_acquire);
}

const KernelTable* const* available_tables() {
  return available().tables;
}

const KernelTable* find_table(const char* name) {
  for (const KernelTable* const* candidate = available_tables(); *candidate != nullptr; ++candidate) {
    if (std::strcmp((*candidate)->name, name) == 0) return *candidate;
  }
  return nullptr;
}

bool select_table(const char* name) {
  const KernelTable* found = find_table(name);
  if (found != nullptr) current().store(found, std::memory_order_release);
  return found != nullptr;
}

}  // namespace tritium
