#include "model/safetensors.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string_view>

#include "model/mapped_file.h"

namespace tangram {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the reference implementation's limit

struct ElementType {
  std::string_view name;
  int bytes;
  std::optional<DType> dtype;  // none: may be in the file, but not computed with
};

constexpr ElementType kTypes[] = {
    {"F32", 4, DType::kF32}, {"F16", 2, DType::kF16}, {"BF16", 2, DType::kBF16},
    {"F64", 8, {}},          {"I64", 8, {}},          {"I32", 4, {}},
    {"I16", 2, {}},          {"I8", 1, {}},           {"U64", 8, {}},
    {"U32", 4, {}},          {"U16", 2, {}},          {"U8", 1, {}},
    {"BOOL", 1, {}},         {"F8_E4M3", 1, {}},      {"F8_E5M2", 1, {}},
};

struct Entry {
  std::string name;
  const ElementType* type;
  std::vector<int64_t> dims;
  uint64_t begin, end;  // of the data section
};

std::optional<uint64_t> AsUnsigned(const Json& value) {
  if (!value.is_number_unsigned()) return std::nullopt;
  return value.get<uint64_t>();
}

// Why `json` is no valid entry, or nothing.
std::string_view ParseEntry(const Json& json, Entry& entry) {
  if (!json.is_object() || !json.contains("dtype") || !json.contains("shape") ||
      !json.contains("data_offsets")) {
    return "lacks dtype, shape or data_offsets";
  }
  if (!json["dtype"].is_string()) return "dtype is not a string";
  const auto& type_name = json["dtype"].get_ref<const std::string&>();
  entry.type = std::ranges::find(kTypes, type_name, &ElementType::name);
  if (entry.type == std::end(kTypes)) return "unknown dtype";
  const Json &shape = json["shape"], &offsets = json["data_offsets"];
  if (!shape.is_array()) return "shape is not an array";
  uint64_t bytes = entry.type->bytes;
  for (const Json& dim : shape) {
    const auto n = AsUnsigned(dim);
    if (!n) return "shape holds no sizes";
    if (__builtin_mul_overflow(bytes, *n, &bytes) || bytes > (uint64_t{1} << 62)) {
      return "its size overflows";
    }
    entry.dims.push_back(static_cast<int64_t>(*n));
  }
  if (!offsets.is_array() || offsets.size() != 2) return "data_offsets is not a pair";
  const auto begin = AsUnsigned(offsets[0]), end = AsUnsigned(offsets[1]);
  if (!begin || !end || *begin > *end) return "data_offsets is not a range";
  if (*end - *begin != bytes) return "data_offsets does not fit dtype and shape";
  entry.begin = *begin;
  entry.end = *end;
  return {};
}

Shape ToShape(const std::vector<int64_t>& dims) {
  switch (dims.size()) {
    case 0:
      return {1};
    case 1:
      return {dims[0]};
    case 2:
      return {dims[0], dims[1]};
    case 3:
      return {dims[0], dims[1], dims[2]};
    default:
      return {dims[0], dims[1], dims[2], dims[3]};
  }
}

// The header's entries in the order of their data.
Result<std::vector<Entry>> ParseHeader(std::string_view header, const std::string& name,
                                       std::map<std::string, std::string>& metadata) {
  const auto fail = [&](std::string_view why) {
    return MakeError(ErrorKind::kUnsupported,
                     fmt::format("{}: corrupt safetensors header: {}", name, why));
  };
  const Json json = Json::parse(header, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return fail("not a JSON object");
  std::vector<Entry> entries;
  for (const auto& [key, value] : json.items()) {
    if (key == "__metadata__") {
      for (const auto& [field, text] : value.items()) {
        if (text.is_string()) metadata[field] = text.get<std::string>();
      }
      continue;
    }
    Entry& entry = entries.emplace_back();
    entry.name = key;
    if (auto why = ParseEntry(value, entry); !why.empty()) {
      return fail(fmt::format("tensor '{}': {}", key, why));
    }
  }
  std::ranges::sort(entries, {}, [](const Entry& e) { return std::pair(e.begin, e.end); });
  return entries;
}

}  // namespace

Result<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  TANGRAM_ASSIGN_OR_RETURN(Buffer file, MapFile(path));
  return Parse(std::move(file), path);
}

Result<SafetensorsFile> SafetensorsFile::Parse(Buffer file, const std::string& name) {
  const auto fail = [&](std::string_view why) {
    return MakeError(ErrorKind::kUnsupported, fmt::format("{}: {}", name, why));
  };
  uint64_t header_bytes = 0;
  if (file.bytes() < sizeof(header_bytes)) return fail("too short for a safetensors file");
  std::memcpy(&header_bytes, file.data(), sizeof(header_bytes));
  const uint64_t rest = file.bytes() - sizeof(header_bytes);
  if (header_bytes > rest || header_bytes > kMaxHeaderBytes) {
    return fail("not a safetensors file, or cut short: its header is longer than the file");
  }
  SafetensorsFile result;
  TANGRAM_ASSIGN_OR_RETURN(
      auto entries,
      ParseHeader(AsText(file).substr(sizeof(header_bytes), header_bytes), name, result.metadata_));

  std::byte* data = static_cast<std::byte*>(file.data()) + sizeof(header_bytes) + header_bytes;
  uint64_t covered = 0;
  for (Entry& entry : entries) {
    if (entry.begin != covered) {
      return fail(fmt::format("tensor '{}' overlaps another or leaves a hole", entry.name));
    }
    covered = entry.end;
    if (covered > rest - header_bytes) {
      return fail(fmt::format("cut short: tensor '{}' ends beyond the file", entry.name));
    }
    StoredTensor& tensor = result.tensors_.emplace_back(
        StoredTensor{std::move(entry.name), std::string(entry.type->name)});
    if (!entry.type->dtype || entry.dims.size() > 4 || entry.begin == entry.end) continue;
    void* at = data + entry.begin;
    if (reinterpret_cast<uintptr_t>(at) % entry.type->bytes != 0) {
      // Old writers did not pad the header; such tensors are copied to where they may be read.
      Buffer aligned = Buffer::AllocateHost(entry.end - entry.begin);
      if (aligned.data() == nullptr) return fail("not enough memory to load it");
      std::memcpy(aligned.data(), at, entry.end - entry.begin);
      at = aligned.data();
      result.owners_.push_back(std::move(aligned));
    }
    tensor.view = {at, *entry.type->dtype, ToShape(entry.dims)};
  }
  if (covered != rest - header_bytes) return fail("bytes after the last tensor");
  result.owners_.push_back(std::move(file));
  return result;
}

TensorView SafetensorsFile::Find(std::string_view name) const {
  const auto it = std::ranges::find(tensors_, name, &StoredTensor::name);
  return it == tensors_.end() ? TensorView{} : it->view;
}

Status WriteSafetensors(const std::string& path, const std::vector<NamedTensor>& tensors,
                        const std::map<std::string, std::string>& metadata) {
  Json header = Json::object();
  header["__metadata__"] = metadata;
  size_t offset = 0;
  for (const NamedTensor& t : tensors) {
    Json shape = Json::array();
    for (int i = 0; i < t.shape.rank(); ++i) shape.push_back(t.shape[i]);
    const size_t end = offset + t.values.size_bytes();
    header[t.name] = {{"dtype", "F32"}, {"shape", shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // so that tensors are aligned where they are mapped
  const uint64_t size = text.size();
  // The process's own, as two may write the same file: the last one to finish wins.
  const std::string unfinished = fmt::format("{}.part{}", path, getpid());
  {
    std::ofstream out(unfinished, std::ios::binary);
    out.write(reinterpret_cast<const char*>(&size), sizeof(size));
    out.write(text.data(), static_cast<std::streamsize>(text.size()));
    for (const NamedTensor& t : tensors) {
      out.write(reinterpret_cast<const char*>(t.values.data()),
                static_cast<std::streamsize>(t.values.size_bytes()));
    }
    if (!out.flush()) {
      std::error_code ignored;
      std::filesystem::remove(unfinished, ignored);
      return MakeError(ErrorKind::kLoad, fmt::format("{}: cannot be written", unfinished));
    }
  }
  std::error_code error;
  std::filesystem::rename(unfinished, path, error);
  if (error) {
    return MakeError(ErrorKind::kLoad, fmt::format("{}: {}", path, error.message()));
  }
  return {};
}

Result<std::vector<std::string>> FindSafetensors(const std::string& folder) {
  const std::filesystem::path base(folder);
  const std::string single = base / "model.safetensors";
  std::error_code ignored;
  if (std::filesystem::exists(single, ignored)) return std::vector{single};
  const std::string index = base / "model.safetensors.index.json";
  if (!std::filesystem::exists(index, ignored)) {
    return MakeError(ErrorKind::kLoad,
                     fmt::format("{}: no model.safetensors or model.safetensors.index.json in it; "
                                 "other weight formats must be converted first",
                                 folder));
  }
  TANGRAM_ASSIGN_OR_RETURN(Buffer text, MapFile(index));
  const Json json = Json::parse(AsText(text), nullptr, false);
  const auto fail = [&](std::string_view why) {
    return MakeError(ErrorKind::kUnsupported, fmt::format("{}: {}", index, why));
  };
  if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object()) {
    return fail("no weight_map in it");
  }
  std::set<std::string> shards;
  for (const auto& [tensor, file] : json["weight_map"].items()) {
    if (!file.is_string()) return fail(fmt::format("the shard of '{}' is not a name", tensor));
    const auto& name = file.get_ref<const std::string&>();
    if (name.empty() || name != std::filesystem::path(name).filename()) {
      return fail(fmt::format("shard '{}' is not a file of the folder", name));
    }
    shards.insert(base / name);
  }
  if (shards.empty()) return fail("weight_map is empty");
  return std::vector<std::string>(shards.begin(), shards.end());
}

}  // namespace tangram
