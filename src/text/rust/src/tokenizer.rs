//! Hugging Face `tokenizers`, as the transformers library drives it.

use crate::abi::{array, guard, Fault, Sink, Slice};
use crate::gguf::{self, GgufVocabulary};
use serde_json::Value;
use std::collections::HashMap;
use tokenizers::{AddedToken, DecoderWrapper, Tokenizer};

pub struct TrsTokenizer {
    inner: Tokenizer,
    byte_level: bool,
}

impl TrsTokenizer {
    fn new(mut inner: Tokenizer) -> Self {
        // A published tokenizer.json may hold its training's truncation and padding; transformers
        // turns both off for every call that does not ask for them.
        inner.with_padding(None);
        let _ = inner.with_truncation(None);
        let byte_level = matches!(inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_)));
        TrsTokenizer { inner, byte_level }
    }
}

/// The tokens that the config adds to tokenizer.json, as transformers' constructor adds them:
/// `added_tokens_decoder` in the order of ids, then named special tokens that were not added yet.
fn add_config_tokens(tokenizer: &mut Tokenizer, config: &Value) {
    let mut known: HashMap<String, bool> = tokenizer
        .get_added_tokens_decoder()
        .values()
        .map(|token| (token.content.clone(), true))
        .collect();
    let mut wanted: Vec<(u64, AddedToken)> = Vec::new();
    if let Some(entries) = config
        .get("added_tokens_decoder")
        .and_then(Value::as_object)
    {
        for (id, entry) in entries {
            if let Some(token) = added_token(entry, false) {
                wanted.push((id.parse().unwrap_or(u64::MAX), token));
            }
        }
    }
    wanted.sort_by_key(|(id, _)| *id);
    let named = [
        "bos_token",
        "eos_token",
        "unk_token",
        "sep_token",
        "pad_token",
        "cls_token",
    ]
    .iter()
    .filter_map(|name| config.get(*name))
    .chain(
        config
            .get("additional_special_tokens")
            .and_then(Value::as_array)
            .into_iter()
            .flatten(),
    );
    wanted.extend(
        named
            .filter_map(|entry| added_token(entry, true))
            .map(|token| (0, token)),
    );
    let missing: Vec<AddedToken> = wanted
        .into_iter()
        .map(|(_, token)| token)
        .filter(|token| known.insert(token.content.clone(), true).is_none())
        .collect();
    tokenizer.add_tokens(&missing);
}

fn added_token(entry: &Value, special: bool) -> Option<AddedToken> {
    if let Some(text) = entry.as_str() {
        return (!text.is_empty()).then(|| AddedToken::from(text, special));
    }
    let flag =
        |name: &str, default: bool| entry.get(name).and_then(Value::as_bool).unwrap_or(default);
    let content = entry.get("content")?.as_str()?;
    let special = special || flag("special", false);
    Some(
        AddedToken::from(content, special)
            .normalized(flag("normalized", !special))
            .lstrip(flag("lstrip", false))
            .rstrip(flag("rstrip", false))
            .single_word(flag("single_word", false)),
    )
}

/// # Safety
/// As rust_abi.h says of each argument; so for every function below.
#[no_mangle]
pub unsafe extern "C" fn trs_tokenizer_from_json(
    json: Slice,
    config: Slice,
    out: *mut *mut TrsTokenizer,
    error: Sink,
) -> i32 {
    guard(error, || {
        let mut tokenizer = Tokenizer::from_bytes(json.bytes())
            .map_err(|e| Fault::input(format!("tokenizer.json: {e}")))?;
        if !config.bytes().is_empty() {
            let config: Value = serde_json::from_slice(config.bytes())
                .map_err(|e| Fault::input(format!("tokenizer_config.json: {e}")))?;
            add_config_tokens(&mut tokenizer, &config);
        }
        *out = Box::into_raw(Box::new(TrsTokenizer::new(tokenizer)));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn trs_tokenizer_from_gguf(
    source: *const GgufVocabulary,
    out: *mut *mut TrsTokenizer,
    error: Sink,
) -> i32 {
    guard(error, || {
        let tokenizer = gguf::build(&*source)?;
        *out = Box::into_raw(Box::new(TrsTokenizer::new(tokenizer)));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn trs_tokenizer_free(tokenizer: *mut TrsTokenizer) {
    drop(Box::from_raw(tokenizer));
}

#[no_mangle]
pub unsafe extern "C" fn trs_encode(
    tokenizer: *const TrsTokenizer,
    text: Slice,
    add_special_tokens: bool,
    ids: Sink,
    error: Sink,
) -> i32 {
    guard(error, || {
        let encoding = (*tokenizer)
            .inner
            .encode_fast(text.text()?, add_special_tokens)
            .map_err(|e| Fault::input(e.to_string()))?;
        let list = encoding.get_ids();
        ids.put(std::slice::from_raw_parts(
            list.as_ptr().cast(),
            std::mem::size_of_val(list),
        ));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn trs_decode(
    tokenizer: *const TrsTokenizer,
    ids: *const u32,
    count: usize,
    skip_special_tokens: bool,
    text: Sink,
    error: Sink,
) -> i32 {
    guard(error, || {
        let decoded = (*tokenizer)
            .inner
            .decode(array(ids, count), skip_special_tokens)
            .map_err(|e| Fault::input(e.to_string()))?;
        text.put(decoded.as_bytes());
        Ok(())
    })
}

/// The token's string in the vocabulary; nothing is written for an id without a token.
#[no_mangle]
pub unsafe extern "C" fn trs_token_string(
    tokenizer: *const TrsTokenizer,
    id: u32,
    text: Sink,
    error: Sink,
) -> i32 {
    guard(error, || {
        if let Some(token) = (*tokenizer).inner.id_to_token(id) {
            text.put(token.as_bytes());
        }
        Ok(())
    })
}

/// The bytes that the token adds to a text. They may be part of a character.
#[no_mangle]
pub unsafe extern "C" fn trs_token_bytes(
    tokenizer: *const TrsTokenizer,
    id: u32,
    bytes: Sink,
    error: Sink,
) -> i32 {
    guard(error, || {
        let tokenizer = &*tokenizer;
        if let Some(token) = tokenizer.inner.id_to_token(id) {
            bytes.put(&token_bytes(tokenizer, token)?);
        }
        Ok(())
    })
}

fn token_bytes(tokenizer: &TrsTokenizer, token: String) -> Result<Vec<u8>, Fault> {
    if tokenizer.byte_level {
        return Ok(byte_level_bytes(&token));
    }
    if let Some(byte) = fallback_byte(&token) {
        return Ok(vec![byte]);
    }
    Ok(token.replace('\u{2581}', " ").into_bytes())
}

/// "<0x0A>" is the byte 10 in vocabularies with byte fallback.
fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 {
        u8::from_str_radix(digits, 16).ok()
    } else {
        None
    }
}

/// The inverse of the byte-level alphabet: printable Latin-1 stands for itself, every other byte
/// for U+0100 onwards, in the order of bytes. A token with any other character stands for itself,
/// as in the ByteLevel decoder.
fn byte_level_bytes(token: &str) -> Vec<u8> {
    let byte_of = |c: char| -> Option<u8> {
        match c as u32 {
            code @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => Some(code as u8),
            code @ 0x100..=0x120 => Some((code - 0x100) as u8),
            code @ 0x121..=0x142 => Some((code - 0x121 + 0x7F) as u8),
            0x143 => Some(0xAD),
            _ => None,
        }
    };
    token
        .chars()
        .map(byte_of)
        .collect::<Option<_>>()
        .unwrap_or_else(|| token.as_bytes().to_vec())
}

/// Writes the ids of the special tokens, which `skip_special_tokens` leaves out.
#[no_mangle]
pub unsafe extern "C" fn trs_special_ids(tokenizer: *const TrsTokenizer, ids: Sink) {
    for (id, token) in (*tokenizer).inner.get_added_tokens_decoder() {
        if token.special {
            ids.put(&id.to_ne_bytes());
        }
    }
}

/// -1: no such token.
#[no_mangle]
pub unsafe extern "C" fn trs_token_id(tokenizer: *const TrsTokenizer, token: Slice) -> i64 {
    let text = std::str::from_utf8(token.bytes()).unwrap_or_default();
    (*tokenizer).inner.token_to_id(text).map_or(-1, i64::from)
}

/// One more than the largest id, if the model's own ids have no gap.
#[no_mangle]
pub unsafe extern "C" fn trs_vocab_size(tokenizer: *const TrsTokenizer) -> usize {
    let inner = &(*tokenizer).inner;
    let added = inner
        .get_added_tokens_decoder()
        .keys()
        .max()
        .map_or(0, |id| *id as usize + 1);
    added.max(inner.get_vocab_size(false))
}

/// Whether a text is the concatenation of its tokens' bytes, decoded as UTF-8 with replacement.
#[no_mangle]
pub unsafe extern "C" fn trs_is_byte_level(tokenizer: *const TrsTokenizer) -> bool {
    (*tokenizer).byte_level
}
