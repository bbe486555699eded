//! The C interface that src/text/rust_abi.h declares.

mod abi;
mod gguf;
mod python_json;
mod template;
mod tokenizer;
