#include "avx512.h"

namespace tritium {

const KernelTable kAvx512VbmiTable = make_table<Avx512<5>>("avx512_vbmi");

}  // namespace tritium
