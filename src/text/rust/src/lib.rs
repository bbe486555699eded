//! The C interface that src/text/rust_abi.h declares.

mod abi;
mod gguf;
mod python;
mod template;
mod tokenizer;
