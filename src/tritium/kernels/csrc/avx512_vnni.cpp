#include "avx512.h"

namespace tritium {

const KernelTable kAvx512VnniTable = make_table<Avx512<4>>("avx512_vnni");

}  // namespace tritium
