#include "model/npz.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <optional>

#include "model/mapped_file.h"
#include "model/zip.h"

namespace tangram {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr size_t kMaxDims = 8;

struct Type {
  std::string_view name;
  int bytes;
};
constexpr Type kTypes[] = {{"<f4", 4}, {"<f8", 8}, {"<i4", 4}, {"<i8", 8}, {"|u1", 1}};

template <class T>
void Widen(const std::string& bytes, std::vector<double>& values) {
  for (size_t i = 0; i < values.size(); ++i) {
    T value;
    std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
    values[i] = static_cast<double>(value);
  }
}

// The header's dictionary, as numpy prints it: {'descr': '<f4', 'fortran_order': False, 'shape':
// (1, 36, 8), }. Reads forward; after something else `ok` stays false.
class HeaderReader {
 public:
  explicit HeaderReader(std::string_view text) : rest_(text) {}

  bool ok() const { return ok_; }
  bool Accept(std::string_view token) {
    SkipSpaces();
    if (!ok_ || !rest_.starts_with(token)) return false;
    rest_.remove_prefix(token.size());
    return true;
  }
  void Expect(std::string_view token) { ok_ = Accept(token) && ok_; }
  std::string_view Quoted() {
    Expect("'");
    const size_t end = rest_.find('\'');
    ok_ = ok_ && end != std::string_view::npos;
    if (!ok_) return {};
    const std::string_view text = rest_.substr(0, end);
    rest_.remove_prefix(end + 1);
    return text;
  }
  int64_t Size() {
    SkipSpaces();
    int64_t value = 0;
    const auto parsed = std::from_chars(rest_.data(), rest_.data() + rest_.size(), value);
    ok_ = ok_ && parsed.ec == std::errc() && value >= 0;
    if (ok_) rest_.remove_prefix(static_cast<size_t>(parsed.ptr - rest_.data()));
    return value;
  }
  std::vector<int64_t> Tuple() {
    std::vector<int64_t> sizes;
    Expect("(");
    while (ok_ && !Accept(")")) {
      sizes.push_back(Size());
      if (!Accept(",")) {
        Expect(")");
        break;
      }
      ok_ = ok_ && sizes.size() <= kMaxDims;
    }
    return sizes;
  }
  void ExpectEnd() {
    SkipSpaces();
    ok_ = ok_ && rest_.empty();
  }

 private:
  void SkipSpaces() { rest_.remove_prefix(std::min(rest_.find_first_not_of(" \n"), rest_.size())); }

  std::string_view rest_;
  bool ok_ = true;
};

struct Header {
  std::string type;
  std::vector<int64_t> shape;
  bool fortran = false;
};

std::optional<Header> ParseHeader(std::string_view text) {
  HeaderReader reader(text);
  Header header;
  bool type = false, order = false, shape = false;
  reader.Expect("{");
  while (reader.ok() && !reader.Accept("}")) {
    const std::string_view key = reader.Quoted();
    reader.Expect(":");
    if (key == "descr" && !type) {
      header.type = reader.Quoted();
      type = true;
    } else if (key == "fortran_order" && !order) {
      header.fortran = reader.Accept("True");
      if (!header.fortran) reader.Expect("False");
      order = true;
    } else if (key == "shape" && !shape) {
      header.shape = reader.Tuple();
      shape = true;
    } else {
      return std::nullopt;
    }
    if (!reader.Accept(",")) {
      reader.Expect("}");
      break;
    }
  }
  reader.ExpectEnd();
  if (!reader.ok() || !type || !order || !shape) return std::nullopt;
  return header;
}

Result<NpyArray> ParseNpy(std::string bytes, const std::string& name) {
  const auto corrupt = [&](std::string_view why) {
    return MakeError(ErrorKind::kUnsupported, fmt::format("{}: {}", name, why));
  };
  // Magic, version, the header's length in 2 bytes (version 1) or 4.
  if (bytes.size() < 12 || !bytes.starts_with(kMagic)) return corrupt("not in numpy's format");
  const int version = static_cast<unsigned char>(bytes[6]);
  if (version < 1 || version > 3) return corrupt("an unknown version of numpy's format");
  const size_t prefix = version == 1 ? 10 : 12;
  uint32_t length = 0;
  std::memcpy(&length, bytes.data() + 8, prefix - 8);
  if (length > bytes.size() - prefix) return corrupt("cut short inside its header");
  auto header = ParseHeader(std::string_view(bytes).substr(prefix, length));
  if (!header) return corrupt("its header is malformed");
  const auto type = std::ranges::find(kTypes, header->type, &Type::name);
  if (type == std::end(kTypes) || header->fortran) {
    return MakeError(ErrorKind::kUnsupported,
                     fmt::format("{}: arrays of type {}{} are not read", name, header->type,
                                 header->fortran ? " in Fortran order" : ""));
  }
  uint64_t expected = static_cast<uint64_t>(type->bytes);
  for (const int64_t dim : header->shape) {
    if (__builtin_mul_overflow(expected, static_cast<uint64_t>(dim), &expected)) {
      return corrupt("its shape overflows");
    }
  }
  if (expected != bytes.size() - prefix - length) return corrupt("its shape is not its size");
  bytes.erase(0, prefix + length);
  return NpyArray{std::move(header->type), std::move(header->shape), std::move(bytes)};
}

}  // namespace

int64_t NpyArray::count() const {
  int64_t count = 1;
  for (const int64_t dim : shape) count *= dim;
  return count;
}

std::vector<double> NpyArray::Values() const {
  std::vector<double> values(static_cast<size_t>(count()));
  if (type == "<f4") Widen<float>(bytes, values);
  if (type == "<f8") Widen<double>(bytes, values);
  if (type == "<i4") Widen<int32_t>(bytes, values);
  if (type == "<i8") Widen<int64_t>(bytes, values);
  if (type == "|u1") Widen<uint8_t>(bytes, values);
  return values;
}

bool NpzFile::LooksLike(const Buffer& file) { return AsText(file).starts_with("PK"); }

Result<NpzFile> NpzFile::Parse(const Buffer& file, const std::string& name) {
  TANGRAM_ASSIGN_OR_RETURN(auto members, ReadZip(AsText(file), name, kMaxBytes));
  NpzFile result;
  for (ZipMember& member : members) {
    if (!member.name.ends_with(".npy")) continue;
    const std::string array_name = member.name.substr(0, member.name.size() - 4);
    TANGRAM_ASSIGN_OR_RETURN(
        NpyArray array, ParseNpy(std::move(member.bytes), fmt::format("{}: {}", name, array_name)));
    result.arrays_.emplace(array_name, std::move(array));
  }
  return result;
}

const NpyArray* NpzFile::Find(std::string_view name) const {
  const auto it = arrays_.find(name);
  return it == arrays_.end() ? nullptr : &it->second;
}

}  // namespace tangram
