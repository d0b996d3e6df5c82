#include "neon.h"

namespace tritium {

const KernelTable kNeonI8mmTable = make_table<Neon<true>>("neon_i8mm");

}  // namespace tritium
