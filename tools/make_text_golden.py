#!/usr/bin/env python3
"""Writes tests/unit/text/golden: what the transformers library makes of texts and conversations.

  pip install transformers==5.24.0 tokenizers==0.23.3 jinja2==3.1.6 gguf==0.19.0
  tools/make_text_golden.py --models .cache/llama.cpp-models --smollm models/SmolLM2-135M-Instruct.Q4_1.gguf

`--models` is vendor/llama.cpp/models of the sdist llama-cpp-python==0.3.36, which carries
vocabularies and the official chat templates; both stay outside the repository.
"""

import argparse
import json
import pathlib
import random

from need import need

need("gguf", "jinja2", "tokenizers", "transformers")
import gguf
from text_golden_inputs import CONVERSATIONS, TEXTS, TOOLS, TRAINING_TEXTS
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers import processors, trainers
from transformers import PreTrainedTokenizerFast

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "tests/unit/text/golden"

# The pre-tokenizers of the published tokenizer.json files of Qwen2 and Llama 3.
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN2.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)


def split_then_bytes(regex):
    split = pre_tokenizers.Split(Regex(regex), behavior="isolated", invert=False)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([split, byte_level])


def gpt2_split():
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


PRE_TOKENIZERS = {
    "gpt-2": gpt2_split,
    "smollm": lambda: pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2_split()]),
    "qwen2": lambda: split_then_bytes(QWEN2),
    "llama-bpe": lambda: split_then_bytes(LLAMA3),
}


def from_gguf(path):
    """The vocabulary of a GGUF file as the fast tokenizer that it was made from."""
    fields = gguf.GGUFReader(path).fields
    read = lambda key: fields[f"tokenizer.ggml.{key}"].contents() if f"tokenizer.ggml.{key}" in fields else None
    pre, tokens, types = read("pre"), read("tokens"), read("token_type")
    merges = [tuple(merge.split(" ")) for merge in read("merges")]
    vocab = {token: i for i, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=pre == "llama-bpe"))
    backend.pre_tokenizer = PRE_TOKENIZERS[pre]()
    backend.decoder = decoders.ByteLevel()
    if pre == "qwen2":
        backend.normalizer = normalizers.NFC()
    bos, eos = read("bos_token_id"), read("eos_token_id")
    if pre == "llama-bpe":
        backend.post_processor = processors.TemplateProcessing(
            single=[tokens[bos], "$A"], special_tokens=[(tokens[bos], bos)]
        )
    added = [AddedToken(tokens[i], special=types[i] == 3, normalized=False) for i in range(len(tokens)) if types[i] in (3, 4)]
    backend.add_tokens(added)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=tokens[bos], eos_token=tokens[eos])


def id_sequences(tokenizer, count, seed):
    """Random ids, mostly of tokens that are parts of characters, with special tokens between."""
    rng = random.Random(seed)
    size = len(tokenizer)
    parts = [i for i in range(size) if "\ufffd" in tokenizer.decode([i])]
    special = tokenizer.all_special_ids
    pick = lambda: rng.choice(parts) if rng.random() < 0.7 else rng.choice(special) if rng.random() < 0.2 else rng.randrange(size)
    return [[pick() for _ in range(rng.randrange(1, 24))] for _ in range(count)]


def text_cases(tokenizer, seed):
    encoded = []
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False)
        encoded.append({"text": text, "ids": ids, "framed_ids": tokenizer.encode(text), "decoded": tokenizer.decode(ids)})
    decoded = []
    for ids in id_sequences(tokenizer, 40, seed):
        decoded.append({"ids": ids, "text": tokenizer.decode(ids), "plain": tokenizer.decode(ids, skip_special_tokens=True)})
    return {"encode": encoded, "decode": decoded}


def render(tokenizer, template, case, with_prompt):
    """One conversation through transformers; what the template refuses is kept as its message."""
    variables = case.get("kwargs", {})
    result = {"conversation": case["name"], "add_generation_prompt": with_prompt}
    try:
        text = tokenizer.apply_chat_template(
            case["messages"], tools=TOOLS if case.get("tools") else None, chat_template=template,
            add_generation_prompt=with_prompt, tokenize=False, **variables,
        )
    except Exception as error:  # noqa: BLE001: whatever the template does is the reference
        return result | {"error": f"{type(error).__name__}: {error}"}
    return result | {"text": text}


def chat_cases(tokenizer, template):
    cases = []
    for case in CONVERSATIONS:
        for with_prompt in (True, False):
            result = render(tokenizer, template, case, with_prompt)
            if "text" in result:
                result["ids"] = tokenizer.encode(result["text"], add_special_tokens=False)
            cases.append(result)
    return cases


def fnv1a(text):
    value = 0xCBF29CE484222325
    for byte in text.encode("utf-8"):
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return f"{value:016x}"


def other_templates(tokenizer, folder):
    """Every template of llama.cpp's collection that does not ask for today's date: hashes of what is rendered."""
    results = {}
    for path in sorted(folder.glob("*.jinja")):
        template = path.read_text(encoding="utf-8")
        # `"..."|safe + text` escapes the text as HTML in Jinja: a slip of these templates, not followed.
        if "strftime_now" in template or path.name in ("meetkai-functionary-medium-v3.1.jinja",):
            continue
        rendered = [render(tokenizer, template, case, True) for case in CONVERSATIONS]
        results[path.name] = {
            r["conversation"]: fnv1a(r["text"]) if "text" in r else r["error"].split(":")[0] for r in rendered
        }
    return results


def small_byte_level(folder):
    """A folder as models are published: tokenizer.json, special tokens in the config, templates by name."""
    backend = Tokenizer(models.BPE(ignore_merges=True))
    backend.pre_tokenizer = split_then_bytes(LLAMA3)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=500, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    backend.train_from_iterator(TRAINING_TEXTS, trainer)
    backend.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"), pretty=False)
    token = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": True,
        "bos_token": "<s>",
        "eos_token": token | {"__type": "AddedToken", "content": "<|end|>"},
        "pad_token": "<pad>",
        "added_tokens_decoder": {
            "502": token | {"content": "<|end|>"},
            "503": token | {"content": "<think>", "special": False, "lstrip": True},
        },
        "chat_template": [
            {"name": "default", "template": "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"},
            {"name": "tool_use", "template": "{{ tools | length }} tools{{ pad_token }}"},
        ],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")


def small_sentencepiece(folder):
    """The shape of Llama 2's: spaces as U+2581, unknown characters as byte tokens, a leading space."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=420, show_progress=False, special_tokens=special, limit_alphabet=70)
    backend.train_from_iterator([text.replace(" ", "\u2581") for text in TRAINING_TEXTS], trainer)
    content = json.loads(backend.to_str())
    content["added_tokens"] = content["added_tokens"][:3]  # byte tokens belong to the model only
    bos = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [bos, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")


def write(name, value):
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    (GOLDEN / name).write_text(text + "\n", encoding="utf-8")
    print(f"{name}: {len(text.encode()) / 1024:.0f} KiB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=pathlib.Path, required=True)
    parser.add_argument("--smollm", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    GOLDEN.mkdir(parents=True, exist_ok=True)

    paths = {name: arguments.models / f"ggml-vocab-{name}.gguf" for name in ("gpt-2", "qwen2", "llama-bpe")}
    vocabularies = {"smollm": from_gguf(arguments.smollm)} | {name: from_gguf(path) for name, path in paths.items()}
    for seed, (name, tokenizer) in enumerate(vocabularies.items()):
        write(f"text_{name}.json", text_cases(tokenizer, seed))

    for seed, (name, make) in enumerate((("byte_level", small_byte_level), ("sentencepiece", small_sentencepiece)), 10):
        make(GOLDEN / name)
        write(f"text_{name}.json", text_cases(PreTrainedTokenizerFast.from_pretrained(GOLDEN / name), seed))

    templates = arguments.models / "templates"
    read = lambda name: (templates / name).read_text(encoding="utf-8")
    smollm_template = gguf.GGUFReader(arguments.smollm).fields["tokenizer.chat_template"].contents()
    write("conversations.json", {"tools": TOOLS, "conversations": CONVERSATIONS})
    write("chat_smollm.json", chat_cases(vocabularies["smollm"], smollm_template))
    write("chat_qwen2.5.json", chat_cases(vocabularies["qwen2"], read("Qwen-Qwen2.5-7B-Instruct.jinja")))
    write("chat_qwen3.json", chat_cases(vocabularies["qwen2"], read("Qwen-Qwen3-0.6B.jinja")))
    write("chat_llama3.1.json", chat_cases(vocabularies["llama-bpe"], read("meta-llama-Llama-3.1-8B-Instruct.jinja")))
    write("chat_others.json", other_templates(vocabularies["qwen2"], templates))


if __name__ == "__main__":
    main()
