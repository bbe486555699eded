#include "engine_options.h"

#include "compression_options.h"

namespace tangram::apps {
namespace {

using Kind = Options::Option::Kind;

void DeclareModel(Options& options, EngineConfig& config, TextConfig& text) {
  options.Group("Model");
  options.Add("model", &config.model_path, "a GGUF file, or a folder in Hugging Face form")
      .Positional()
      .Alias("-m");
  options.Add("tokenizer", &text.tokenizer, "file or folder of the tokenizer, if not the model's");
  options.Add("chat-template", &text.chat_template, "a Jinja file or text, if not the model's");
  options.AddWords<bool>(
      "load-format", &config.dummy_weights,
      {{"auto", false}, {"gguf", false}, {"safetensors", false}, {"dummy", true}},
      "format of the weights; dummy: random ones");
  options.Add("max-model-len", &config.max_model_len, "longest context, tokens; 0: the model's");
  options.Add(
      "generation-config", &config.generation_config,
      "sampling defaults: auto (the model's generation_config.json), vllm (none), or a path");
  options.Add("override-generation-config", &config.override_generation_config,
              "JSON object of sampling defaults that override those");
  options.Add("seed", &config.seed, "random seed for dummy weights and for requests without one");
}

void DeclareCache(Options& options, EngineConfig& config) {
  options.Group("KV cache");
  options
      .Add("kv-cache-dtype", &config.kv_cache_dtype,
           "type of keys and values; auto: f16 on the CPU, bf16 on a GPU")
      .OneOf({"auto", "f16", "float16", "bf16", "bfloat16", "f32", "float32"});
  options.Add("kv-cache-memory-bytes", &config.kv_cache_memory_bytes,
              "size of the page pool (2G); 0: a share of free memory");
  options
      .Add("memory-utilization", &config.memory_utilization,
           "that share; 0: 0.5 of free memory on the CPU, 0.9 of a GPU")
      .Alias("--gpu-memory-utilization");
  options
      .Add("num-blocks-override", &config.num_pages_override,
           "size of the pool in blocks of one page for every row; 0: by memory")
      .Alias("--num-gpu-blocks-override");
  options.Add("block-size", &config.page_size, "tokens per page").Alias("--page-size");
  options.Add("page-group-size", &config.page_group_size,
              "KV heads that share a page table; 0: 4, or the largest smaller number that divides "
              "all heads");
  options.Add("enable-prefix-caching", &config.enable_prefix_caching,
              "reuse the KV cache of earlier prompts");
}

void DeclareScheduling(Options& options, EngineConfig& config) {
  options.Group("Scheduling");
  options.Add("max-num-seqs", &config.max_num_seqs,
              "sequences that run at once; 0: 64 on the CPU, 256 on a GPU");
  options.Add("max-num-batched-tokens", &config.max_num_batched_tokens,
              "tokens of a step; 0: 512 on the CPU, 8192 on a GPU");
  options
      .Add("max-queued-requests", &config.max_queued_requests,
           "most requests that wait; further ones are answered 503")
      .Alias("--max-num-queued-reqs");
  options.AddWords<bool>("scheduling-policy", &config.priority_policy,
                         {{"fcfs", false}, {"priority", true}}, "order of waiting requests");
}

void DeclareDevice(Options& options, EngineConfig& config) {
  options.Group("Device");
  options
      .Add("device", &config.device,
           "cpu, cuda; auto: an NVIDIA GPU that can be used, else the CPU; reference: the plain, "
           "slow operations, for comparisons")
      .OneOf({"auto", "cpu", "cuda", "reference"});
  options.Add("num-threads", &config.num_threads, "of the CPU; 0: one a core").Alias("-t");
  options.Add(
      "batch-invariant", &config.batch_invariant,
      "on a GPU: a request gets the same bits whatever runs beside it, at some speed; the CPU "
      "always gives them");
  options.Add("enforce-eager", &config.enforce_eager,
              "on a GPU: launch every kernel, instead of recorded steps");
}

}  // namespace

void DeclareModelOptions(Options& options, EngineConfig& config, TextConfig& text) {
  DeclareModel(options, config, text);
  DeclareCache(options, config);
  DeclareCompressionOptions(options, config);
  DeclareScheduling(options, config);
  DeclareDevice(options, config);
}

void DeclareForeignEngineOptions(Options& options) {
  options.Accept("enable-chunked-prefill", Kind::kFlag, "prefill is always chunked");
  options.Accept("async-scheduling", Kind::kFlag, "there is no interpreter to hide");
  options.Accept("cudagraph-capture-sizes", Kind::kList, "the CPU backend has no graphs");
  options.Accept("compilation-config", Kind::kValue, "nothing is compiled at start-up");
  options.Accept("swap-space", Kind::kValue,
                 "preempted requests find their pages again in the prefix cache");
  options.Accept("cpu-offload-gb", Kind::kValue, "weights are memory-mapped");
  options.Accept("trust-remote-code", Kind::kFlag, "no code of a model is ever run");
  options.Refuse("scheduler-reserve-full-isl", Kind::kFlag, "true",
                 "a request is admitted only with pages for its whole prompt");
  options.Refuse("watermark", Kind::kValue, "0", "admission counts pages exactly");
  options.Refuse("dtype", Kind::kValue, "auto",
                 "weights stay as stored and arithmetic is float32: leave it at auto");
  options.Refuse("quantization", Kind::kValue, "", "the model's file says how it is quantised")
      .Alias("-q");
  const auto one_device = [&](const char* name, const char* harmless) -> Options::Option& {
    return options.Refuse(name, Kind::kValue, harmless, "one device of one machine is served");
  };
  one_device("tensor-parallel-size", "1").Alias("-tp").Alias("--tp");
  one_device("pipeline-parallel-size", "1").Alias("-pp");
  one_device("data-parallel-size", "1").Alias("-dp");
  one_device("nnodes", "1");
  one_device("node-rank", "0");
  one_device("master-addr", "127.0.0.1");
  one_device("master-port", "29501");
  options.Refuse("headless", Kind::kFlag, "false", "one device of one machine is served");
  options.Refuse("speculative-config", Kind::kValue, "", "there is no speculative decoding");
  options.Refuse("enable-lora", Kind::kFlag, "false", "adapters are not served");
  for (const char* name : {"revision", "download-dir"}) {
    options.Refuse(name, Kind::kValue, "", "models are local files: nothing is downloaded");
  }
}

}  // namespace tangram::apps
