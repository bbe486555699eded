#include "model/mapped_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace tangram {

Result<Buffer> MapFile(const std::string& path) {
  const auto fail = [&](std::string_view why, ErrorKind kind = ErrorKind::kLoad) {
    return MakeError(kind, fmt::format("{}: {}", path, why));
  };
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return fail(std::strerror(errno));
  struct stat info {};
  const bool known = fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
  const auto bytes = static_cast<size_t>(known ? info.st_size : 0);
  void* data = bytes > 0 ? mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
  const int map_error = errno;
  close(fd);
  if (!known) return fail("not a regular file");
  if (bytes == 0) return fail("the file is empty", ErrorKind::kUnsupported);
  if (data == MAP_FAILED) {
    return fail(std::strerror(map_error),
                map_error == ENOMEM ? ErrorKind::kOutOfMemory : ErrorKind::kLoad);
  }
  madvise(data, bytes, MADV_WILLNEED);  // a hint: read ahead while the headers are parsed
  return Buffer(std::shared_ptr<void>(data, [bytes](void* p) { munmap(p, bytes); }), bytes);
}

}  // namespace tangram
