// Token ids, texts and prompts equal those of the transformers library (golden/, written by
// tools/make_text_golden.py), and llama.cpp's own ids for its vocabularies. The vocabularies and
// templates are not in the repository: scripts/setup puts them where kModels and kSmolLm say, and
// without them these tests fail.

#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "gguf_tokenizer.h"
#include "text/chat_template.h"
#include "text/stream_decoder.h"
#include "text/utf8.h"

namespace tangram {
namespace {

using Json = nlohmann::ordered_json;
using Ids = std::vector<int32_t>;

const std::string kRoot = TANGRAM_SOURCE_DIR;
const std::string kGolden = kRoot + "/tests/unit/text/golden/";
const std::string kModels = kRoot + "/.cache/llama.cpp-models/";
const std::string kSmolLm = kRoot + "/models/SmolLM2-135M-Instruct.Q4_1.gguf";

std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << "cannot read " << path << "; scripts/setup fetches it";
  return {std::istreambuf_iterator<char>(file), {}};
}

Json Golden(const std::string& name) { return Json::parse(ReadAll(kGolden + name)); }

struct Vocabulary {
  GgufTokenizer metadata;
  std::shared_ptr<const Tokenizer> tokenizer;
};

// Of "smollm", a vocabulary of llama.cpp ("qwen2") or a folder of golden/ ("byte_level").
const Vocabulary& Load(const std::string& name) {
  static std::map<std::string, Vocabulary> loaded;
  if (const auto it = loaded.find(name); it != loaded.end()) return it->second;
  Vocabulary& vocabulary = loaded[name];
  if (name == "byte_level" || name == "sentencepiece") {
    auto tokenizer = Tokenizer::FromFolder(kGolden + name);
    EXPECT_TRUE(tokenizer) << tokenizer.error().message;
    if (tokenizer) vocabulary.tokenizer = *tokenizer;
    return vocabulary;
  }
  const auto file =
      GgufFile::Open(name == "smollm" ? kSmolLm : kModels + "ggml-vocab-" + name + ".gguf");
  EXPECT_TRUE(file) << file.error().message << "; scripts/setup fetches it";
  if (!file) return vocabulary;
  vocabulary.metadata = apps::ReadGgufTokenizer(*file);
  auto tokenizer = Tokenizer::FromGguf(vocabulary.metadata);
  EXPECT_TRUE(tokenizer) << tokenizer.error().message;
  if (tokenizer) vocabulary.tokenizer = *tokenizer;
  return vocabulary;
}

// What streams, having checked that no piece holds a part of a character.
std::string Stream(std::shared_ptr<const Tokenizer> tokenizer, const Ids& ids, bool skip) {
  TokenStream stream(std::move(tokenizer), skip);
  std::string text;
  const auto add = [&](const std::string& piece) {
    Utf8Reader whole;
    EXPECT_EQ(whole.Push(piece) + whole.Finish(), piece);
    text += piece;
  };
  for (int32_t id : ids) add(stream.Push(id));
  add(stream.Finish());
  return text;
}

class Vocabularies : public testing::TestWithParam<const char*> {};

TEST_P(Vocabularies, EncodeAsTransformersDoes) {
  const auto tokenizer = Load(GetParam()).tokenizer;
  ASSERT_NE(tokenizer, nullptr);
  const Json golden = Golden(std::string("text_") + GetParam() + ".json");
  ASSERT_GE(golden["encode"].size(), 38u);
  for (const Json& item : golden["encode"]) {
    const auto text = item["text"].get<std::string>();
    const auto ids = item["ids"].get<Ids>();
    EXPECT_EQ(tokenizer->Encode(text, false), ids) << text;
    EXPECT_EQ(tokenizer->Encode(text, true), item["framed_ids"].get<Ids>()) << text;
    EXPECT_EQ(tokenizer->Decode(ids, false), item["decoded"].get<std::string>());
    EXPECT_EQ(Stream(tokenizer, ids, false), item["decoded"].get<std::string>());
  }
}

// Ids in any order: parts of characters, special tokens between them.
TEST_P(Vocabularies, DecodeAndStreamAsTransformersDoes) {
  const auto tokenizer = Load(GetParam()).tokenizer;
  ASSERT_NE(tokenizer, nullptr);
  const Json golden = Golden(std::string("text_") + GetParam() + ".json");
  ASSERT_GE(golden["decode"].size(), 40u);
  for (const Json& item : golden["decode"]) {
    const auto ids = item["ids"].get<Ids>();
    for (const auto& [skip, field] : {std::pair(false, "text"), std::pair(true, "plain")}) {
      const auto text = item[field].get<std::string>();
      EXPECT_EQ(tokenizer->Decode(ids, skip), text) << item["ids"];
      EXPECT_EQ(Stream(tokenizer, ids, skip), text) << item["ids"];
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Text, Vocabularies,
                         testing::Values("smollm", "gpt-2", "qwen2", "llama-bpe", "byte_level",
                                         "sentencepiece"));

class LlamaCpp : public testing::TestWithParam<const char*> {};

TEST_P(LlamaCpp, HasTheSameIds) {
  const std::string path = kModels + "ggml-vocab-" + GetParam() + ".gguf";
  const auto tokenizer = Load(GetParam()).tokenizer;
  ASSERT_NE(tokenizer, nullptr);
  const std::string inputs = ReadAll(path + ".inp"), separator = "\n__ggml_vocab_test__\n";
  std::istringstream outputs(ReadAll(path + ".out"));
  std::string line;
  size_t count = 0;
  for (size_t begin = 0, end = 0; end != inputs.npos && std::getline(outputs, line); ++count) {
    end = inputs.find(separator, begin);
    const std::string text = inputs.substr(begin, end == inputs.npos ? end : end - begin);
    begin = end + separator.size();
    std::istringstream numbers(line);
    const Ids expected{std::istream_iterator<int32_t>(numbers), {}};
    EXPECT_EQ(tokenizer->Encode(text, false), expected) << text;
  }
  EXPECT_GE(count, 46u);
}

INSTANTIATE_TEST_SUITE_P(Text, LlamaCpp, testing::Values("gpt-2", "qwen2", "llama-bpe"));

struct ChatCase {
  const char* golden;
  const char* vocabulary;
  const char* source;  // a file of llama.cpp's collection; null: the GGUF's own
};

std::string Dump(const Json& object, const char* field) {
  return object.contains(field) ? object[field].dump() : "";
}

ChatInput InputOf(const Json& inputs, const std::string& name, bool add_generation_prompt) {
  for (const Json& item : inputs["conversations"]) {
    if (item["name"] != name) continue;
    return {.messages = item["messages"].dump(),
            .tools = item.value("tools", false) ? inputs["tools"].dump() : "",
            .documents = "",
            .kwargs = Dump(item, "kwargs"),
            .add_generation_prompt = add_generation_prompt};
  }
  ADD_FAILURE() << "no conversation " << name;
  return {};
}

class ChatTemplates : public testing::TestWithParam<ChatCase> {};

TEST_P(ChatTemplates, RenderAsTransformersDoes) {
  const Vocabulary& vocabulary = Load(GetParam().vocabulary);
  ASSERT_NE(vocabulary.tokenizer, nullptr);
  const char* file = GetParam().source;
  const std::string source = file ? ReadAll(kModels + "templates/" + file) : "";
  const auto chat = ChatTemplate::FromGguf(vocabulary.metadata, source);
  ASSERT_TRUE(chat) << chat.error().message;
  const Json inputs = Golden("conversations.json");
  const Json golden = Golden(GetParam().golden);
  ASSERT_GE(golden.size(), 26u);
  for (const Json& item : golden) {
    const auto name = item["conversation"].get<std::string>();
    const auto prompt = chat->Render(InputOf(inputs, name, item["add_generation_prompt"]));
    if (item.contains("error")) {
      ASSERT_FALSE(prompt) << name << ": " << *prompt;
      EXPECT_EQ(prompt.error().kind, ErrorKind::kInvalidArgument);
      const auto error = item["error"].get<std::string>(), raised = std::string("TemplateError: ");
      if (error.starts_with(raised)) {
        EXPECT_EQ(prompt.error().message, error.substr(raised.size()));
      }
      continue;
    }
    ASSERT_TRUE(prompt) << name << ": " << prompt.error().message;
    EXPECT_EQ(*prompt, item["text"].get<std::string>()) << name;
    const auto ids = item["ids"].get<Ids>();
    EXPECT_EQ(vocabulary.tokenizer->Encode(*prompt, false), ids) << name;
    EXPECT_EQ(Stream(vocabulary.tokenizer, ids, false), vocabulary.tokenizer->Decode(ids, false));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Text, ChatTemplates,
    testing::Values(ChatCase{"chat_smollm.json", "smollm", nullptr},
                    ChatCase{"chat_qwen2.5.json", "qwen2", "Qwen-Qwen2.5-7B-Instruct.jinja"},
                    ChatCase{"chat_qwen3.json", "qwen2", "Qwen-Qwen3-0.6B.jinja"},
                    ChatCase{"chat_llama3.1.json", "llama-bpe",
                             "meta-llama-Llama-3.1-8B-Instruct.jinja"}),
    [](const auto& chat) {
      std::string name = chat.param.golden;
      std::erase_if(name, [](unsigned char c) { return !std::isalnum(c); });
      return name;
    });

// FNV-1a, as the generator hashes.
std::string Hash(const std::string& text) {
  uint64_t value = 0xCBF29CE484222325u;
  for (char c : text) value = (value ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
  char digits[17];
  std::snprintf(digits, sizeof digits, "%016lx", static_cast<unsigned long>(value));
  return digits;
}

// Breadth: whatever transformers renders of llama.cpp's whole collection renders the same here.
TEST(ChatTemplates, OfManyModelsRenderAsTransformersDoes) {
  const Json inputs = Golden("conversations.json");
  const Json golden = Golden("chat_others.json");
  ASSERT_GE(golden.size(), 60u);
  for (const auto& [file, hashes] : golden.items()) {
    const auto chat =
        ChatTemplate::FromGguf(Load("qwen2").metadata, ReadAll(kModels + "templates/" + file));
    if (!chat) {
      ADD_FAILURE() << file << ": " << chat.error().message;
      continue;
    }
    for (const auto& [name, hash] : hashes.items()) {
      if (hash.get<std::string>().ends_with("Error")) continue;
      const auto prompt = chat->Render(InputOf(inputs, name, true));
      if (!prompt) {
        ADD_FAILURE() << file << ", " << name << ": " << prompt.error().message;
      } else {
        EXPECT_EQ(Hash(*prompt), hash.get<std::string>()) << file << ", " << name << ":\n"
                                                          << *prompt;
      }
    }
  }
}

}  // namespace
}  // namespace tangram
