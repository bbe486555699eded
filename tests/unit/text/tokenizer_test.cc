#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include "text/chat_template.h"
#include "unit/text/tiny_tokenizer.h"

namespace tangram {
namespace {

using Ids = std::vector<int32_t>;

TEST(Tokenizer, GgufMergesAndSpecialTokens) {
  const auto tokenizer = TinyTokenizer();
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(tokenizer->Encode("abcab", false), (Ids{TinyIds::kAbc, TinyIds::kAb}));
  EXPECT_EQ(tokenizer->Encode("a<tool><|im_end|>b", false),
            (Ids{'a', TinyIds::kTool, TinyIds::kEnd, 'b'}));
  EXPECT_EQ(tokenizer->vocab_size(), 261);
  EXPECT_EQ(tokenizer->bos_id(), TinyIds::kBos);
  EXPECT_EQ(tokenizer->eos_ids(), Ids{TinyIds::kEnd});
  EXPECT_TRUE(tokenizer->IsSpecial(TinyIds::kEnd));
  EXPECT_FALSE(tokenizer->IsSpecial(TinyIds::kTool));
  EXPECT_FALSE(tokenizer->IsSpecial('a'));
}

TEST(Tokenizer, TokensAsStringsAndBytes) {
  const auto tokenizer = TinyTokenizer();
  EXPECT_EQ(tokenizer->TokenString(' '), "Ġ");
  EXPECT_EQ(tokenizer->TokenBytes(' '), " ");
  for (int byte = 0; byte < 256; ++byte) {
    EXPECT_EQ(tokenizer->TokenBytes(byte), std::string(1, static_cast<char>(byte)));
  }
  EXPECT_EQ(tokenizer->TokenBytes(TinyIds::kEnd), "<|im_end|>");
  for (int32_t id : {261, 1 << 30, -1}) {
    EXPECT_EQ(tokenizer->TokenString(id), "");
    EXPECT_EQ(tokenizer->TokenBytes(id), "");
  }
  EXPECT_EQ(tokenizer->TokenToId("<s>"), TinyIds::kBos);
  EXPECT_EQ(tokenizer->TokenToId("nowhere"), std::nullopt);
}

TEST(Tokenizer, BosAndEosAsTheFileAsks) {
  GgufTokenizer gguf = TinyGguf();
  gguf.add_bos = true;
  gguf.add_eos = true;
  const auto tokenizer = *Tokenizer::FromGguf(gguf);
  EXPECT_EQ(tokenizer->Encode("ab", true), (Ids{TinyIds::kBos, TinyIds::kAb, TinyIds::kEnd}));
  EXPECT_EQ(tokenizer->Encode("ab", false), Ids{TinyIds::kAb});
}

TEST(Tokenizer, FaultsAreToldNotFatal) {
  EXPECT_EQ(TinyTokenizer()->Encode("a\xFF", false).error().kind, ErrorKind::kInvalidArgument);
  const auto fault = [](void (*spoil)(GgufTokenizer*)) {
    GgufTokenizer gguf = TinyGguf();
    spoil(&gguf);
    auto made = Tokenizer::FromGguf(gguf);
    return made ? Error{ErrorKind::kInternal, "none"} : made.error();
  };
  EXPECT_EQ(fault([](auto* g) { g->model = "llama"; }).kind, ErrorKind::kUnsupported);
  EXPECT_EQ(fault([](auto* g) { g->pre = "other"; }).kind, ErrorKind::kUnsupported);
  EXPECT_EQ(fault([](auto* g) { g->merges = {"ab"}; }).kind, ErrorKind::kUnsupported);
  EXPECT_EQ(fault([](auto* g) { g->merges = {"q x"}; }).kind, ErrorKind::kUnsupported);
  EXPECT_EQ(fault([](auto* g) { g->token_types.pop_back(); }).kind, ErrorKind::kUnsupported);
  EXPECT_EQ(fault([](auto* g) { g->tokens[3] = "\xFF"; }).kind, ErrorKind::kUnsupported);
  EXPECT_EQ(fault([](auto* g) { g->bos_id = 1000, g->add_bos = true; }).kind,
            ErrorKind::kUnsupported);
  EXPECT_EQ(Tokenizer::FromFolder("/nowhere").error().kind, ErrorKind::kLoad);
}

TEST(ChatTemplate, RendersWithTheModelsSpecialTokens) {
  const auto chat = ChatTemplate::FromGguf(TinyGguf());
  ASSERT_TRUE(chat) << chat.error().message;
  EXPECT_EQ(chat->Render({.messages = R"([{"content":"a<&"},{"content":"b"}])"}), "<s>a<&b");
}

}  // namespace
}  // namespace tangram
