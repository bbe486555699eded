#include "model/zip.h"

#include <fmt/format.h>
#include <zlib.h>

#include <cstring>
#include <set>

namespace tangram {
namespace {

// Records of APPNOTE.TXT: signatures, and sizes without names, extra fields and comments.
constexpr uint32_t kEndSignature = 0x06054b50, kEntrySignature = 0x02014b50,
                   kLocalSignature = 0x04034b50;
constexpr size_t kEndBytes = 22, kEntryBytes = 46, kLocalBytes = 30;
constexpr size_t kMaxComment = 0xffff;
constexpr uint32_t kInZip64 = 0xffffffff;  // the number is in a zip64 field
constexpr uint16_t kEncrypted = 1, kStored = 0, kDeflated = 8;

template <class T>
T At(std::string_view bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

// An entry of the central directory.
struct Entry {
  std::string_view name;
  uint16_t flags, method;
  uint32_t crc, compressed, size, local;
};

class ZipReader {
 public:
  ZipReader(std::string_view archive, const std::string& name, uint64_t max_bytes)
      : archive_(archive), name_(name), left_(max_bytes) {}

  Result<std::vector<ZipMember>> Run() {
    TANGRAM_RETURN_IF_ERROR(FindDirectory());
    std::vector<ZipMember> members;
    std::set<std::string_view> names;
    size_t at = directory_;
    for (int i = 0; i < num_entries_; ++i) {
      TANGRAM_ASSIGN_OR_RETURN(const Entry entry, ReadEntry(at));
      if (!names.insert(entry.name).second) return Corrupt("a member is there twice");
      TANGRAM_ASSIGN_OR_RETURN(std::string bytes, ReadMember(entry));
      members.push_back({std::string(entry.name), std::move(bytes)});
    }
    if (at != end_) return Corrupt("its directory has room for more members than it counts");
    return members;
  }

 private:
  tl::unexpected<Error> Corrupt(std::string_view why) const {
    return MakeError(ErrorKind::kUnsupported,
                     fmt::format("{}: corrupt zip archive: {}", name_, why));
  }
  tl::unexpected<Error> Unsupported(std::string_view what) const {
    return MakeError(ErrorKind::kUnsupported,
                     fmt::format("{}: {} is not read; write it with numpy.savez", name_, what));
  }

  // The end record is the last one, before a comment of up to 64 KiB that it tells the length of.
  Status FindDirectory() {
    if (archive_.size() < kEndBytes) return Corrupt("too short");
    const size_t last = archive_.size() - kEndBytes;
    const size_t first = last > kMaxComment ? last - kMaxComment : 0;
    for (end_ = last;; --end_) {
      if (At<uint32_t>(archive_, end_) == kEndSignature &&
          At<uint16_t>(archive_, end_ + 20) == last - end_) {
        break;
      }
      if (end_ == first) return Corrupt("cut short: it has no directory");
    }
    num_entries_ = At<uint16_t>(archive_, end_ + 10);
    const auto bytes = At<uint32_t>(archive_, end_ + 12);
    directory_ = At<uint32_t>(archive_, end_ + 16);
    if (directory_ == kInZip64 || bytes == kInZip64) return Unsupported("zip64");
    if (At<uint32_t>(archive_, end_ + 4) != 0 ||  // this disk, and the directory's
        At<uint16_t>(archive_, end_ + 8) != num_entries_) {
      return Unsupported("an archive of several disks");
    }
    if (directory_ > end_ || bytes != end_ - directory_) {
      return Corrupt("its directory is not before its end");
    }
    return {};
  }

  // The entry at `at`, which then is behind it.
  Result<Entry> ReadEntry(size_t& at) const {
    if (end_ - at < kEntryBytes || At<uint32_t>(archive_, at) != kEntrySignature) {
      return Corrupt("its directory is cut short");
    }
    Entry entry{};
    entry.flags = At<uint16_t>(archive_, at + 8);
    entry.method = At<uint16_t>(archive_, at + 10);
    entry.crc = At<uint32_t>(archive_, at + 16);
    entry.compressed = At<uint32_t>(archive_, at + 20);
    entry.size = At<uint32_t>(archive_, at + 24);
    entry.local = At<uint32_t>(archive_, at + 42);
    const size_t name_bytes = At<uint16_t>(archive_, at + 28);
    const size_t rest =
        name_bytes + At<uint16_t>(archive_, at + 30) + At<uint16_t>(archive_, at + 32);
    at += kEntryBytes;
    if (end_ - at < rest) return Corrupt("its directory is cut short");
    entry.name = archive_.substr(at, name_bytes);
    at += rest;
    return entry;
  }

  // numpy leaves sizes in the local record to a zip64 field: the directory's count.
  Result<std::string> ReadMember(const Entry& entry) {
    if ((entry.flags & kEncrypted) != 0) return Unsupported("encryption");
    if (entry.compressed == kInZip64 || entry.size == kInZip64 || entry.local == kInZip64) {
      return Unsupported("zip64");
    }
    if (entry.local > directory_ || directory_ - entry.local < kLocalBytes ||
        At<uint32_t>(archive_, entry.local) != kLocalSignature) {
      return Corrupt("a member is not where the directory says");
    }
    const size_t data = entry.local + kLocalBytes + At<uint16_t>(archive_, entry.local + 26) +
                        At<uint16_t>(archive_, entry.local + 28);
    if (data > directory_ || directory_ - data < entry.compressed) {
      return Corrupt("a member ends beyond the directory");
    }
    if (entry.size > left_) return Corrupt("its members are too large");
    left_ -= entry.size;
    TANGRAM_ASSIGN_OR_RETURN(std::string bytes,
                             Unpack(archive_.substr(data, entry.compressed), entry));
    const auto* start = reinterpret_cast<const Bytef*>(bytes.data());
    if (crc32(crc32(0, nullptr, 0), start, static_cast<uInt>(bytes.size())) != entry.crc) {
      return Corrupt("a member's checksum is wrong");
    }
    return bytes;
  }

  Result<std::string> Unpack(std::string_view packed, const Entry& entry) const {
    if (entry.method == kStored) {
      if (entry.size != packed.size()) return Corrupt("a stored member has two sizes");
      return std::string(packed);
    }
    if (entry.method != kDeflated) return Unsupported("a compression other than deflate");
    // Deflate makes nothing smaller than 1032 to 1: memory is not taken on a header's word.
    if (entry.size / 1032 > packed.size()) return Corrupt("a member inflates to another size");
    std::string bytes(entry.size, '\0');
    z_stream stream{};
    if (inflateInit2(&stream, -MAX_WBITS) != Z_OK) return Corrupt("zlib does not start");
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed.data()));
    stream.avail_in = static_cast<uInt>(packed.size());
    stream.next_out = reinterpret_cast<Bytef*>(bytes.data());
    stream.avail_out = static_cast<uInt>(bytes.size());
    const int code = inflate(&stream, Z_FINISH);
    const bool whole = code == Z_STREAM_END && stream.avail_in == 0 && stream.avail_out == 0;
    inflateEnd(&stream);
    if (!whole) return Corrupt("a member inflates to another size, or not at all");
    return bytes;
  }

  std::string_view archive_;
  const std::string& name_;
  uint64_t left_;
  size_t directory_ = 0, end_ = 0;  // offsets of the central directory and of its end
  int num_entries_ = 0;
};

}  // namespace

Result<std::vector<ZipMember>> ReadZip(std::string_view archive, const std::string& name,
                                       uint64_t max_bytes) {
  return ZipReader(archive, name, max_bytes).Run();
}

}  // namespace tangram
