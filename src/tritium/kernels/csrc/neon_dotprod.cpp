#include "neon.h"

namespace tritium {

const KernelTable kNeonDotprodTable = make_table<Neon<false>>("neon_dotprod");

}  // namespace tritium
