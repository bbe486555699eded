#pragma once

#include <cstdint>
#include <string>

namespace tangram {

// Bytes that this process may still take: the least of the system's available memory, what its
// control groups leave, and what its address space may still grow by (`ulimit -v`).
int64_t AvailableMemory();

// What the control groups that the file `memberships` (/proc/self/cgroup) names, and those above
// them, leave of their limits; INT64_MAX if none has one. Their files are below `mount`
// (/sys/fs/cgroup), in version 2's form or version 1's. File pages that the kernel would drop first
// count as free.
int64_t LeftByControlGroups(const std::string& memberships, const std::string& mount);

}  // namespace tangram
