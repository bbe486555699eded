#include "text/stream_decoder.h"

#include <gtest/gtest.h>

#include <random>

#include "unit/text/tiny_tokenizer.h"

namespace tangram {
namespace {

// Ids of single bytes.
std::vector<int32_t> Bytes(std::string_view text) {
  std::vector<int32_t> ids;
  for (char c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

struct Streamed {
  std::string text;
  std::string stop;  // what ended it, or empty
};

Streamed Stream(const std::vector<int32_t>& ids, StreamOptions options) {
  StreamDecoder decoder(TinyTokenizer(), std::move(options));
  Streamed result;
  for (int32_t id : ids) result.text += decoder.Push(id);
  result.text += decoder.Finish();
  if (decoder.stopped_by() != nullptr) result.stop = *decoder.stopped_by();
  return result;
}

TEST(Utf8Reader, WithholdsOnlyWhatMayBecomeACharacter) {
  Utf8Reader reader;
  EXPECT_EQ(reader.Push("a\xF0\x9F"), "a");
  EXPECT_EQ(reader.Push("\x98"), "");
  EXPECT_EQ(reader.Push("\x80z"), "😀z");
  EXPECT_EQ(reader.Push("\xE4\xBD"), "");
  EXPECT_EQ(reader.Push("x"), "\uFFFDx");
  EXPECT_EQ(reader.Push("\xC3"), "");
  EXPECT_EQ(reader.Finish(), "\uFFFD");
  EXPECT_EQ(reader.Finish(), "");
}

TEST(Utf8Reader, RefusesOverlongFormsSurrogatesAndLargeCodePoints) {
  Utf8Reader reader;
  EXPECT_EQ(reader.Push("\xC0\x80."), "\uFFFD\uFFFD.");
  EXPECT_EQ(reader.Push("\xED\xA0\x80."), "\uFFFD\uFFFD\uFFFD.");
  EXPECT_EQ(reader.Push("\xF4\x90\x80\x80."), "\uFFFD\uFFFD\uFFFD\uFFFD.");
  EXPECT_EQ(reader.Push("\xE0\x80\xFF."), "\uFFFD\uFFFD\uFFFD.");
}

// Any bytes, valid or not: what streams is what decodes, and no piece splits a character.
TEST(StreamDecoder, StreamsWhatDecodes) {
  const auto tokenizer = TinyTokenizer();
  ASSERT_NE(tokenizer, nullptr);
  std::mt19937 random(7);
  const std::string_view leads = "\xC3\xE4\xF0\xED\xF4\x80\x9F\xBD\xA0 a\xFF";
  for (int round = 0; round < 2000; ++round) {
    std::vector<int32_t> ids;
    for (size_t i = 0, n = random() % 12; i < n; ++i) {
      const bool special = random() % 8 == 0;
      ids.push_back(special ? 256 + static_cast<int>(random() % 7)
                            : static_cast<unsigned char>(leads[random() % leads.size()]));
    }
    for (bool skip : {false, true}) {
      TokenStream stream(tokenizer, skip);
      std::string text;
      for (int32_t id : ids) {
        const std::string piece = stream.Push(id);
        Utf8Reader whole;
        EXPECT_EQ(whole.Push(piece), piece);
        EXPECT_EQ(whole.Finish(), "");
        text += piece;
      }
      EXPECT_EQ(text + stream.Finish(), tokenizer->Decode(ids, skip));
    }
  }
}

TEST(StreamDecoder, EndsBeforeTheStopString) {
  const Streamed result = Stream(Bytes("one STOP two"), {.stop = {"STOP"}});
  EXPECT_EQ(result.text, "one ");
  EXPECT_EQ(result.stop, "STOP");
}

TEST(StreamDecoder, EndsAfterTheStopStringIfItIsIncluded) {
  const Streamed result = Stream(Bytes("one STOP two"), {.stop = {"STOP"}, .include_stop = true});
  EXPECT_EQ(result.text, "one STOP");
  EXPECT_EQ(result.stop, "STOP");
}

TEST(StreamDecoder, TheFirstStopStringInTheTextCounts) {
  const std::vector<int32_t> abc = {TinyIds::kAbc};  // both end in one token
  EXPECT_EQ(Stream(abc, {.stop = {"c", "b"}}).stop, "b");
  EXPECT_EQ(Stream(abc, {.stop = {"bc", "b"}}).stop, "bc");
  EXPECT_EQ(Stream(abc, {.stop = {"c", "b"}}).text, "a");
}

TEST(StreamDecoder, HoldsBackNoMoreThanAStopStringsBeginning) {
  StreamDecoder decoder(TinyTokenizer(), {.stop = {"xxy"}});
  EXPECT_EQ(decoder.Push('a'), "a");
  EXPECT_EQ(decoder.Push('x'), "");
  EXPECT_EQ(decoder.Push('x'), "");
  EXPECT_EQ(decoder.Push('x'), "x");
  EXPECT_EQ(decoder.Push('b'), "xxb");
  EXPECT_EQ(decoder.Push('x'), "");
  EXPECT_EQ(decoder.Finish(), "x");
  EXPECT_EQ(decoder.stopped_by(), nullptr);
}

TEST(StreamDecoder, StopStringsDoNotCountWithinMinTokens) {
  const Streamed result = Stream(Bytes("ab.ab.c"), {.stop = {"."}, .min_tokens = 3});
  EXPECT_EQ(result.text, "ab.ab");
  EXPECT_EQ(Stream(Bytes("aXYbXY"), {.stop = {"XY"}, .min_tokens = 2}).text, "a");
  EXPECT_EQ(Stream(Bytes("aXYbXY"), {.stop = {"XY"}, .min_tokens = 3}).text, "aXYb");
}

// Against the plain definition, over many cuts of a text that is full of near misses.
TEST(StreamDecoder, StopsAsASearchOfTheWholeTextDoes) {
  std::mt19937 random(3);
  for (int round = 0; round < 3000; ++round) {
    std::string text;
    for (int i = 0; i < 14; ++i) text += "xyz"[random() % 3];
    std::vector<std::string> stop = {"xyxy", "yyx", "zzzz", ""};
    stop.resize(1 + random() % 4);
    for (bool include : {false, true}) {
      size_t end = std::string::npos;
      for (const std::string& s : stop) {
        if (!s.empty()) end = std::min(end, text.find(s));
      }
      const Streamed result = Stream(Bytes(text), {.stop = stop, .include_stop = include});
      const std::string prefix = text.substr(0, end);
      EXPECT_EQ(result.text, include ? prefix + result.stop : prefix) << text;
      EXPECT_EQ(result.stop.empty(), end == std::string::npos) << text;
    }
  }
}

TEST(StreamDecoder, SpecialTokensAreShownOnRequest) {
  const std::vector<int32_t> ids = {'a', TinyIds::kEnd, TinyIds::kTool};
  EXPECT_EQ(Stream(ids, {}).text, "a<tool>");
  EXPECT_EQ(Stream(ids, {.skip_special_tokens = false}).text, "a<|im_end|><tool>");
}

}  // namespace
}  // namespace tangram
