#pragma once

namespace tangram {

// Cores that this process may use, as its affinity mask says.
int AvailableCores();

}  // namespace tangram
