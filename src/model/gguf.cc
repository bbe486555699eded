#include "model/gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <limits>

#include "model/mapped_file.h"

namespace tangram {
namespace {

enum ValueType : uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64,
};

constexpr size_t kScalarBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
constexpr uint64_t kDefaultAlignment = 32;
constexpr uint32_t kMaxDims = 4;

// ggml's types, by their number in a file. Those without a DType are named in messages only.
struct GgmlType {
  std::string_view name;
  uint32_t id;
  std::optional<DType> dtype;
  int block_size, block_bytes;
};

constexpr GgmlType Known(std::string_view name, uint32_t id, DType dtype) {
  return {name, id, dtype, static_cast<int>(BlockSize(dtype)), static_cast<int>(BlockBytes(dtype))};
}

constexpr GgmlType kTypes[] = {
    Known("F32", 0, DType::kF32),    Known("F16", 1, DType::kF16),
    Known("BF16", 30, DType::kBF16), Known("Q4_0", 2, DType::kQ4_0),
    Known("Q4_1", 3, DType::kQ4_1),  Known("Q8_0", 8, DType::kQ8_0),
    Known("Q4_K", 12, DType::kQ4_K), Known("Q5_K", 13, DType::kQ5_K),
    Known("Q6_K", 14, DType::kQ6_K), {"Q5_0", 6, {}, 32, 22},
    {"Q5_1", 7, {}, 32, 24},         {"Q2_K", 10, {}, 256, 84},
    {"Q3_K", 11, {}, 256, 110},      {"IQ2_XXS", 16, {}, 256, 66},
    {"IQ2_XS", 17, {}, 256, 74},     {"IQ3_XXS", 18, {}, 256, 98},
    {"IQ1_S", 19, {}, 256, 50},      {"IQ4_NL", 20, {}, 32, 18},
    {"IQ3_S", 21, {}, 256, 110},     {"IQ2_S", 22, {}, 256, 82},
    {"IQ4_XS", 23, {}, 256, 136},    {"IQ1_M", 29, {}, 256, 56},
};

// Reads forward; after a read beyond the end, `ok` stays false and values are zero.
class Cursor {
 public:
  explicit Cursor(std::string_view bytes) : rest_(bytes), total_(bytes.size()) {}

  bool ok() const { return ok_; }
  size_t position() const { return total_ - rest_.size(); }
  size_t remaining() const { return rest_.size(); }

  std::string_view Take(uint64_t bytes) {
    if (bytes > rest_.size()) {
      ok_ = false;
      rest_ = {};
    }
    if (!ok_) return {};
    const std::string_view taken = rest_.substr(0, bytes);
    rest_.remove_prefix(bytes);
    return taken;
  }
  template <class T>
  T Read() {
    T value{};
    if (const auto bytes = Take(sizeof(T)); ok_) std::memcpy(&value, bytes.data(), sizeof(T));
    return value;
  }
  std::string_view ReadString() { return Take(Read<uint64_t>()); }

 private:
  std::string_view rest_;
  size_t total_;
  bool ok_ = true;
};

template <class T>
T Decode(std::string_view bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof(T));
  return value;
}

std::optional<int64_t> DecodeInt(uint32_t type, std::string_view bytes) {
  switch (type) {
    case kU8:
    case kBool:
      return Decode<uint8_t>(bytes);
    case kI8:
      return Decode<int8_t>(bytes);
    case kU16:
      return Decode<uint16_t>(bytes);
    case kI16:
      return Decode<int16_t>(bytes);
    case kU32:
      return Decode<uint32_t>(bytes);
    case kI32:
      return Decode<int32_t>(bytes);
    case kI64:
      return Decode<int64_t>(bytes);
    case kU64: {
      const auto value = Decode<uint64_t>(bytes);
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
      return static_cast<int64_t>(value);
    }
    default:
      return std::nullopt;
  }
}

}  // namespace

// One pass over header, metadata and tensor infos.
class GgufParser {
 public:
  GgufParser(GgufFile& out, const std::string& name)
      : out_(out), name_(name), cursor_(AsText(out.file_)) {}

  Status Run() {
    TANGRAM_RETURN_IF_ERROR(ReadHeader());
    for (uint64_t i = 0; i < num_values_; ++i) TANGRAM_RETURN_IF_ERROR(ReadKeyValue());
    for (uint64_t i = 0; i < num_tensors_; ++i) TANGRAM_RETURN_IF_ERROR(ReadTensorInfo());
    return PlaceTensors();
  }

 private:
  struct Info {
    const GgmlType* type;
    std::string name;
    Shape shape;
    uint64_t bytes, offset;
  };

  tl::unexpected<Error> Fail(std::string_view why) const {
    return MakeError(ErrorKind::kUnsupported, fmt::format("{}: {}", name_, why));
  }

  Status ReadHeader() {
    if (cursor_.Take(4) != "GGUF") return Fail("not a GGUF file");
    const auto version = cursor_.Read<uint32_t>();
    num_tensors_ = cursor_.Read<uint64_t>();
    num_values_ = cursor_.Read<uint64_t>();
    if (!cursor_.ok()) return Fail("cut short inside the GGUF header");
    if ((version & 0xffff) == 0) return Fail("a big-endian GGUF file; convert it to little-endian");
    if (version != 2 && version != 3) {
      return Fail(fmt::format("GGUF version {}; versions 2 and 3 are read", version));
    }
    return {};
  }

  Status ReadKeyValue() {
    const std::string key(cursor_.ReadString());
    GgufFile::Value value;
    value.type = cursor_.Read<uint32_t>();
    if (value.type == kArray) {
      value.element_type = cursor_.Read<uint32_t>();
      value.count = cursor_.Read<uint64_t>();
    }
    const size_t begin = cursor_.position();
    const uint32_t type = value.type == kArray ? value.element_type : value.type;
    if (cursor_.ok() && (type > kF64 || type == kArray)) {
      return Fail(fmt::format("metadata '{}' has unknown value type {}", key, type));
    }
    if (cursor_.ok()) SkipElements(type, value.count);
    if (!cursor_.ok()) return Fail(fmt::format("cut short inside metadata '{}'", key));
    value.bytes = AsText(out_.file_).substr(begin, cursor_.position() - begin);
    if (!out_.metadata_.emplace(key, value).second) {
      return Fail(fmt::format("metadata '{}' appears twice", key));
    }
    return {};
  }

  void SkipElements(uint32_t type, uint64_t count) {
    if (type == kString) {
      // Each takes 8 bytes at least, so a count beyond the file ends at the file's end.
      for (uint64_t i = 0; i < count && cursor_.ok(); ++i) cursor_.ReadString();
      return;
    }
    uint64_t bytes = 0;
    const bool overflow = __builtin_mul_overflow(count, kScalarBytes[type], &bytes);
    cursor_.Take(overflow ? std::numeric_limits<uint64_t>::max() : bytes);
  }

  Status ReadTensorInfo() {
    Info info;
    info.name = std::string(cursor_.ReadString());
    const auto num_dims = cursor_.Read<uint32_t>();
    if (cursor_.ok() && (num_dims == 0 || num_dims > kMaxDims)) {
      return Fail(fmt::format("tensor '{}' has {} dimensions", info.name, num_dims));
    }
    uint64_t dims[kMaxDims] = {1, 1, 1, 1};
    for (uint32_t i = 0; i < num_dims && cursor_.ok(); ++i) dims[i] = cursor_.Read<uint64_t>();
    const auto type_id = cursor_.Read<uint32_t>();
    info.offset = cursor_.Read<uint64_t>();
    if (!cursor_.ok()) return Fail("cut short inside the tensor list");
    info.type = std::ranges::find(kTypes, type_id, &GgmlType::id);
    if (info.type == std::end(kTypes)) {
      return MakeError(ErrorKind::kUnsupported,
                       fmt::format("{}: tensor '{}' has ggml type {}, which is not known here",
                                   name_, info.name, type_id));
    }
    uint64_t count = 1;
    for (const uint64_t dim : dims) {
      if (dim == 0 || __builtin_mul_overflow(count, dim, &count) || count > (uint64_t{1} << 48)) {
        return Fail(fmt::format("tensor '{}' has an impossible size", info.name));
      }
    }
    if (dims[0] % info.type->block_size != 0) {
      return Fail(fmt::format("tensor '{}': rows of {} elements cannot be {}", info.name, dims[0],
                              info.type->name));
    }
    info.bytes = count / info.type->block_size * info.type->block_bytes;
    const auto dim = [&](int i) { return static_cast<int64_t>(dims[i]); };
    switch (num_dims) {
      case 1:
        info.shape = {dim(0)};
        break;
      case 2:
        info.shape = {dim(1), dim(0)};
        break;
      case 3:
        info.shape = {dim(2), dim(1), dim(0)};
        break;
      default:
        info.shape = {dim(3), dim(2), dim(1), dim(0)};
    }
    infos_.push_back(std::move(info));
    return {};
  }

  Status PlaceTensors() {
    uint64_t alignment = kDefaultAlignment;
    if (const auto* value = out_.Find("general.alignment")) {
      alignment = static_cast<uint64_t>(DecodeInt(value->type, value->bytes).value_or(0));
      if (alignment < 8 || alignment > (1u << 20) || (alignment & (alignment - 1)) != 0) {
        return Fail("general.alignment is not a sensible power of two");
      }
    }
    const std::string_view file = AsText(out_.file_);
    const uint64_t data = (cursor_.position() + alignment - 1) / alignment * alignment;
    std::ranges::sort(infos_, {}, &Info::offset);
    uint64_t end = 0;  // of the tensor before
    for (Info& info : infos_) {
      if (info.offset % alignment != 0 || info.offset < end) {
        return Fail(fmt::format("tensor '{}' overlaps another or is not aligned", info.name));
      }
      if (data > file.size() || info.offset > file.size() - data ||
          info.bytes > file.size() - data - info.offset) {
        return Fail(fmt::format("cut short: tensor '{}' ends beyond the file", info.name));
      }
      end = info.offset + info.bytes;
      StoredTensor& tensor = out_.tensors_.emplace_back(
          StoredTensor{std::move(info.name), std::string(info.type->name)});
      tensor.view.shape = info.shape;
      if (!info.type->dtype) continue;
      tensor.view.data = static_cast<std::byte*>(out_.file_.data()) + data + info.offset;
      tensor.view.dtype = *info.type->dtype;
    }
    return {};
  }

  GgufFile& out_;
  const std::string& name_;
  Cursor cursor_;
  uint64_t num_tensors_ = 0, num_values_ = 0;
  std::vector<Info> infos_;
};

Result<GgufFile> GgufFile::Open(const std::string& path) {
  TANGRAM_ASSIGN_OR_RETURN(Buffer file, MapFile(path));
  return Parse(std::move(file), path);
}

Result<GgufFile> GgufFile::Parse(Buffer file, const std::string& name) {
  GgufFile result;
  result.file_ = std::move(file);
  TANGRAM_RETURN_IF_ERROR(GgufParser(result, name).Run());
  return result;
}

const GgufFile::Value* GgufFile::Find(std::string_view key) const {
  const auto it = metadata_.find(key);
  return it == metadata_.end() ? nullptr : &it->second;
}

std::optional<int64_t> GgufFile::Int(std::string_view key) const {
  const Value* value = Find(key);
  return value ? DecodeInt(value->type, value->bytes) : std::nullopt;
}

std::optional<double> GgufFile::Float(std::string_view key) const {
  const Value* value = Find(key);
  if (!value) return std::nullopt;
  if (value->type == kF32) return Decode<float>(value->bytes);
  if (value->type == kF64) return Decode<double>(value->bytes);
  const auto integer = DecodeInt(value->type, value->bytes);
  return integer ? std::optional<double>(*integer) : std::nullopt;
}

std::optional<bool> GgufFile::Bool(std::string_view key) const {
  const Value* value = Find(key);
  if (!value || value->type != kBool) return std::nullopt;
  return Decode<uint8_t>(value->bytes) != 0;
}

std::optional<std::string_view> GgufFile::String(std::string_view key) const {
  const Value* value = Find(key);
  if (!value || value->type != kString) return std::nullopt;
  return Cursor(value->bytes).ReadString();
}

std::optional<std::vector<std::string_view>> GgufFile::StringArray(std::string_view key) const {
  const Value* value = Find(key);
  if (!value || value->type != kArray || value->element_type != kString) return std::nullopt;
  std::vector<std::string_view> strings(value->count);
  Cursor cursor(value->bytes);
  for (auto& string : strings) string = cursor.ReadString();
  return strings;
}

std::optional<std::vector<int64_t>> GgufFile::IntArray(std::string_view key) const {
  const Value* value = Find(key);
  if (!value || value->type != kArray) return std::nullopt;
  const size_t size = kScalarBytes[value->element_type];
  std::vector<int64_t> numbers;
  if (size == 0) return std::nullopt;
  numbers.reserve(value->count);
  for (uint64_t i = 0; i < value->count; ++i) {
    const auto number = DecodeInt(value->element_type, value->bytes.substr(i * size, size));
    if (!number) return std::nullopt;
    numbers.push_back(*number);
  }
  return numbers;
}

std::vector<std::string_view> GgufFile::keys() const {
  std::vector<std::string_view> keys;
  for (const auto& [key, value] : metadata_) keys.push_back(key);
  return keys;
}

bool LooksLikeGguf(const std::string& path) {
  char magic[4] = {};
  std::ifstream(path, std::ios::binary).read(magic, sizeof(magic));
  return std::string_view(magic, sizeof(magic)) == "GGUF";
}

}  // namespace tangram
