#include "text/chat_template.h"

#include <gtest/gtest.h>

#include <ctime>
#include <filesystem>
#include <fstream>
#include <thread>

#include "support/test_folder.h"
#include "unit/text/tiny_tokenizer.h"

namespace tangram {
namespace {

// What `source` makes of `input`; an error as "error: " and its message.
std::string Render(const std::string& source, const ChatInput& input = {.messages = "[]"}) {
  const auto chat = ChatTemplate::FromGguf(TinyGguf(), source);
  if (!chat) return "error: " + chat.error().message;
  const auto text = chat->Render(input);
  return text ? *text : "error: " + text.error().message;
}

std::string RenderWith(const std::string& source, const std::string& kwargs) {
  return Render(source, {.messages = "[]", .kwargs = kwargs});
}

TEST(ChatTemplate, ToJsonIsPythons) {
  const std::string value =
      R"({"v": {"ü<&'\"": [1, 1.0, true, null, "a\n\u0001"], "e": [], "o": {}}})";
  EXPECT_EQ(RenderWith("{{ v | tojson }}", value),
            R"({"ü<&'\"": [1, 1.0, true, null, "a\n\u0001"], "e": [], "o": {}})");
  EXPECT_EQ(RenderWith("{{ v | tojson(separators=(',', ':'), ensure_ascii=True) }}", value),
            R"({"\u00fc<&'\"":[1,1.0,true,null,"a\n\u0001"],"e":[],"o":{}})");
  EXPECT_EQ(
      RenderWith("{{ v | tojson(indent=2, sort_keys=True) }}", R"({"v": {"b": [1], "a": []}})"),
      "{\n  \"a\": [],\n  \"b\": [\n    1\n  ]\n}");
  EXPECT_EQ(RenderWith("{{ [v] | tojson(indent='..') }}", R"({"v": "😀"})"), "[\n..\"😀\"\n]");
  EXPECT_EQ(RenderWith("{{ v | tojson(ensure_ascii=true) }}", R"({"v": "😀"})"),
            R"("\ud83d\ude00")");
  EXPECT_TRUE(Render("{{ nothing | tojson }}").starts_with("error: "));
}

TEST(ChatTemplate, FloatsArePythons) {
  const std::string floats =
      "0.1 1.0 -2.5 1000000000000000.0 1e+16 1.5e+300 0.0001 1e-05 -0.0 0.1234567890123";
  std::istringstream words(floats);
  for (std::string word; words >> word;) {
    EXPECT_EQ(RenderWith("{{ v | tojson }} {{ v }} {{ [v] }}", "{\"v\": " + word + "}"),
              word + " " + word + " [" + word + "]");
  }
}

TEST(ChatTemplate, ValuesPrintAsInPython) {
  EXPECT_EQ(RenderWith("{{ v }}", R"({"v": {"a": [true, null, "it's", 2.0]}})"),
            "{'a': [True, None, \"it's\", 2.0]}");
  EXPECT_EQ(Render("{{ true }} {{ none }} {{ undefined_name }} {{ (1, 'b') }}"),
            "True None  (1, 'b')");
}

TEST(ChatTemplate, RaisedErrorsAreTheTemplatesOwnWords) {
  EXPECT_EQ(Render("{{ raise_exception('Roles must alternate!') }}"),
            "error: Roles must alternate!");
  EXPECT_EQ(Render("{% macro m(x) %}{% for i in [1] %}{{ raise_exception('no ' ~ x) }}{% endfor %}"
                   "{% endmacro %}{{ m('good') }}"),
            "error: no good");
  EXPECT_TRUE(Render("\n{{ messages[0].content.x }}").starts_with("error: chat template, line 2"));
  EXPECT_TRUE(Render("{% if %}").starts_with("error: chat template, line 1"));
  EXPECT_TRUE(Render("{{ 1 }}", {.messages = "[}"}).starts_with("error: "));
}

TEST(ChatTemplate, BlocksTrimAsTransformersSetsThem) {
  EXPECT_EQ(Render("a\n  {% if true %}\nb\n  {% endif %}\nc\n"), "a\nb\nc");
}

TEST(ChatTemplate, GenerationTagsAndLoopControls) {
  EXPECT_EQ(Render("{% generation %}\nx{%- endgeneration -%} \ny{% generation %}{% set q = 1 %}"
                   "{% endgeneration %}{{ q is defined }}"),
            "xyFalse");
  EXPECT_EQ(Render("{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}"
                   "{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}"),
            "023");
}

TEST(ChatTemplate, StrftimeNowIsToday) {
  const auto year = [] {
    const std::time_t now = std::time(nullptr);
    return std::to_string(1900 + std::localtime(&now)->tm_year);
  };
  const std::string before = year(), rendered = Render("{{ strftime_now('%Y') }}");
  EXPECT_TRUE(rendered == before || rendered == year()) << rendered;
}

TEST(ChatTemplate, KwargsAreVariablesButDoNotReplaceTheConversation) {
  EXPECT_EQ(
      Render("{{ messages }} {{ tools }} {{ bos_token }} {{ think }} {{ add_generation_prompt }}",
             {.messages = "[]",
              .kwargs = R"({"think": false, "messages": [1], "bos_token": "B"})",
              .add_generation_prompt = false}),
      "[] None B False False");
  EXPECT_EQ(RenderWith("{{ eos_token }}", " { } "), "<|im_end|>");
}

TEST(ChatTemplate, NullFieldsAreDroppedAndReasoningHasItsStandardName) {
  const ChatInput input{.messages = R"([{"content": null, "reasoning": "r"}])"};
  EXPECT_EQ(
      Render("{% set m = messages[0] %}{{ 'content' in m }} {{ m.reasoning_content }}", input),
      "False r");
}

class Folder {
 public:
  void Write(const std::string& name, const std::string& text) {
    const auto file = std::filesystem::path(path_) / name;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  std::string Render(const std::string& tools = "", std::string_view source = {}) {
    const auto chat = ChatTemplate::FromFolder(path_, source);
    if (!chat) return "error: " + chat.error().message;
    return chat->Render({.messages = "[]", .tools = tools}).value_or("error");
  }
  const std::string& path() const { return path_; }

 private:
  TestFolder own_;
  const std::string path_ = own_.path();
};

TEST(ChatTemplate, OfAFolder) {
  Folder folder;
  EXPECT_EQ(ChatTemplate::FromFolder(folder.path()).error().kind, ErrorKind::kNotFound);
  EXPECT_EQ(folder.Render("", "given"), "given");
  folder.Write(
      "tokenizer_config.json",
      R"({"bos_token": {"content": "<b>"}, "chat_template": "c{{ bos_token }}{{ pad_token }}"})");
  folder.Write("special_tokens_map.json", R"({"bos_token": "<old>", "pad_token": "<p>"})");
  EXPECT_EQ(folder.Render(), "c<b><p>");
  folder.Write("chat_template.jinja", "file");
  EXPECT_EQ(folder.Render(), "file");
  folder.Write("additional_chat_templates/tool_use.jinja", "{{ tools | length }} tools");
  EXPECT_EQ(folder.Render("[1, 2]"), "2 tools");
  EXPECT_EQ(folder.Render(), "file");
  EXPECT_EQ(folder.Render("[1]", "{{ bos_token }}given"), "<b>given");
  folder.Write("tokenizer_config.json", "[]");
  EXPECT_EQ(ChatTemplate::FromFolder(folder.path()).error().kind, ErrorKind::kUnsupported);
}

TEST(ChatTemplate, NamedTemplatesOfTheConfig) {
  Folder folder;
  folder.Write("tokenizer_config.json", R"({"chat_template": [{"name": "default", "template": "d"},
                                                              {"name": "tool_use", "template": "t"}]})");
  EXPECT_EQ(folder.Render(), "d");
  EXPECT_EQ(folder.Render("[]"), "t");
}

TEST(ChatTemplate, OfARequest) {
  const auto chat = ChatTemplate::FromGguf(TinyGguf());
  const auto other = chat->WithSource("{{ bos_token }}other");
  ASSERT_TRUE(other);
  EXPECT_EQ(other->Render({.messages = "[]"}), "<s>other");
  EXPECT_EQ(chat->WithSource("{% for").error().kind, ErrorKind::kInvalidArgument);
}

TEST(Text, IsUsedFromManyThreads) {
  const auto tokenizer = TinyTokenizer();
  const auto chat = ChatTemplate::FromGguf(TinyGguf());
  std::vector<std::thread> threads;
  std::vector<int> right(4);
  for (int& count : right) {
    threads.emplace_back([&] {
      for (int i = 0; i < 300; ++i) {
        const auto prompt =
            chat->Render({.messages = R"([{"content": "abcab )" + std::to_string(i) + "\"}]"});
        const auto ids =
            prompt ? tokenizer->Encode(*prompt, false) : Result<std::vector<int32_t>>();
        if (ids && tokenizer->Decode(*ids, true) == "abcab " + std::to_string(i)) ++count;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int count : right) EXPECT_EQ(count, 300);
}

}  // namespace
}  // namespace tangram
