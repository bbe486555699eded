//! The tokenizer of a GGUF file, rebuilt as the tokenizer.json that the model was published with.

use crate::abi::{array, Fault, Slice};
use std::collections::HashMap;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::tokenizer::SplitDelimiterBehavior;
use tokenizers::{AddedToken, Tokenizer};

/// `struct trs_gguf` of rust_abi.h.
#[repr(C)]
pub struct GgufVocabulary {
    pre: Slice,
    tokens: *const Slice,
    token_types: *const i32,
    token_count: usize,
    merges: *const Slice,
    merge_count: usize,
    prefix_id: i64, // put before every text, -1: nothing
    suffix_id: i64,
}

// tokenizer.ggml.token_type
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

const QWEN2_SPLIT: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const LLAMA3_SPLIT: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// # Safety
/// Every pointer of `source` must be good for its count.
pub unsafe fn build(source: &GgufVocabulary) -> Result<Tokenizer, Fault> {
    let tokens = array(source.tokens, source.token_count);
    let types = array(source.token_types, source.token_count);
    let mut texts = Vec::with_capacity(tokens.len());
    for token in tokens {
        texts.push(token.text()?);
    }
    let pre = source.pre.text()?;
    let model = model(pre, &texts, array(source.merges, source.merge_count))?;

    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(pre_tokenizer(pre)?));
    tokenizer.with_decoder(Some(ByteLevel::new(false, true, true)));
    if pre == "qwen2" {
        tokenizer.with_normalizer(Some(NFC));
    }
    tokenizer.add_tokens(&added_tokens(&texts, types));
    let prefix = named(&texts, source.prefix_id)?;
    tokenizer.with_post_processor(frame(prefix, named(&texts, source.suffix_id)?)?);
    Ok(tokenizer)
}

unsafe fn model(pre: &str, texts: &[&str], merges: &[Slice]) -> Result<BPE, Fault> {
    let vocabulary: HashMap<String, u32> = texts
        .iter()
        .enumerate()
        .map(|(id, text)| (text.to_string(), id as u32))
        .collect();
    let mut pairs = Vec::with_capacity(merges.len());
    for merge in merges {
        let text = merge.text()?;
        let (left, right) = text
            .split_once(' ')
            .ok_or_else(|| Fault::input(format!("the merge \"{text}\" has no space")))?;
        pairs.push((left.to_string(), right.to_string()));
    }
    BPE::builder()
        .vocab_and_merges(vocabulary, pairs)
        .ignore_merges(pre == "llama-bpe")
        .build()
        .map_err(|e| Fault::input(format!("the merges do not fit the tokens: {e}")))
}

fn split(regex: &str) -> Result<PreTokenizerWrapper, Fault> {
    let pattern = SplitPattern::Regex(regex.to_string());
    Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
        .map(PreTokenizerWrapper::Split)
        .map_err(|e| Fault::input(e.to_string()))
}

fn pre_tokenizer(pre: &str) -> Result<PreTokenizerWrapper, Fault> {
    let gpt2 = PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, true));
    let bytes_only = PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, false));
    let steps = match pre {
        "gpt-2" => return Ok(gpt2),
        "smollm" => vec![PreTokenizerWrapper::Digits(Digits::new(true)), gpt2],
        "qwen2" => vec![split(QWEN2_SPLIT)?, bytes_only],
        "llama-bpe" => vec![split(LLAMA3_SPLIT)?, bytes_only],
        _ => {
            return Err(Fault::input(format!(
                "tokenizer.ggml.pre \"{pre}\" is not known"
            )))
        }
    };
    Ok(PreTokenizerWrapper::Sequence(Sequence::new(steps)))
}

fn added_tokens(texts: &[&str], types: &[i32]) -> Vec<AddedToken> {
    texts
        .iter()
        .zip(types)
        .filter(|(text, kind)| !text.is_empty() && matches!(**kind, CONTROL | USER_DEFINED))
        .map(|(text, kind)| AddedToken::from(*text, *kind == CONTROL).normalized(false))
        .collect()
}

fn named(texts: &[&str], id: i64) -> Result<Option<(String, u32)>, Fault> {
    if id < 0 {
        return Ok(None);
    }
    let text = texts
        .get(id as usize)
        .ok_or_else(|| Fault::input(format!("token id {id} is outside the vocabulary")))?;
    Ok(Some((text.to_string(), id as u32)))
}

/// Puts tokens before and after every text.
fn frame(
    prefix: Option<(String, u32)>,
    suffix: Option<(String, u32)>,
) -> Result<Option<TemplateProcessing>, Fault> {
    let mut pieces = vec!["$A".to_string()];
    pieces.splice(0..0, prefix.iter().map(|(text, _)| text.clone()));
    pieces.extend(suffix.iter().map(|(text, _)| text.clone()));
    let special: Vec<(String, u32)> = prefix.into_iter().chain(suffix).collect();
    if special.is_empty() {
        return Ok(None);
    }
    TemplateProcessing::builder()
        .try_single(pieces)
        .map_err(Fault::input)?
        .special_tokens(special)
        .build()
        .map(Some)
        .map_err(|e| Fault::input(e.to_string()))
}
