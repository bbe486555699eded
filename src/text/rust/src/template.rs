//! Chat templates, in the environment that transformers gives them.

use crate::abi::{guard, Fault, Sink, Slice};
use crate::python::{text_of, tojson};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde_json::Value as Json;
use std::ffi::CString;

pub struct TrsTemplate {
    environment: Environment<'static>,
}

const NAME: &str = "chat template";
/// Marks an error as the template's own words.
const RAISED: &str = "\u{1}";

fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    if let Ok(syntax) = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()
    {
        env.set_syntax(syntax);
    }
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_undefined_behavior(UndefinedBehavior::Lenient);
    env.set_unknown_method_callback(unknown_method_callback);
    env.set_formatter(|out, _, value| Ok(out.write_str(&text_of(value))?));
    env.add_filter("string", |value: Value| text_of(&value));
    env.add_filter("tojson", tojson);
    env.add_test("iterable", |value: &Value| {
        !value.is_none() && value.try_iter().is_ok()
    });
    env.add_function("raise_exception", raise_exception);
    env.add_function("strftime_now", strftime_now);
    env
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(
        ErrorKind::InvalidOperation,
        format!("{RAISED}{message}"),
    ))
}

/// `datetime.now().strftime(format)`.
fn strftime_now(format: String) -> Result<String, Error> {
    let invalid = |_| {
        Error::new(
            ErrorKind::InvalidOperation,
            "strftime_now: NUL in the format",
        )
    };
    let format = CString::new(format).map_err(invalid)?;
    let mut buffer = [0u8; 512];
    // time and localtime_r fill what they are given; strftime stops at the buffer's end.
    let length = unsafe {
        let now = libc::time(std::ptr::null_mut());
        let mut parts: libc::tm = std::mem::zeroed();
        libc::localtime_r(&now, &mut parts);
        libc::strftime(
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            format.as_ptr(),
            &parts,
        )
    };
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// `{% generation %}` only marks what an assistant said, for training; the block's scope is kept.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else {
            break;
        };
        let tag = &rest[start + 2..start + length];
        let name = tag.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        out.push_str(&rest[..start + 2]);
        match name {
            "generation" => out.push_str(&tag.replace(name, "with")),
            "endgeneration" => out.push_str(&tag.replace(name, "endwith")),
            _ => out.push_str(tag),
        }
        rest = &rest[start + length..];
    }
    out + rest
}

/// What transformers does to each message: clients send `"content": null`, which templates print or
/// fail on, so nulls are dropped; and reasoning, which has had three names, goes by the standard one
/// and by gpt-oss's.
fn normalize_message(message: &mut Json) {
    let Some(fields) = message.as_object_mut() else {
        return;
    };
    fields.retain(|_, value| !value.is_null());
    let names = ["reasoning_content", "thinking", "reasoning"];
    if let Some(reasoning) = names.iter().find_map(|name| fields.get(*name)).cloned() {
        fields
            .entry("thinking")
            .or_insert_with(|| reasoning.clone());
        fields.insert("reasoning_content".to_string(), reasoning);
    }
}

fn describe(error: &Error) -> String {
    let detail = error.detail().unwrap_or_default();
    if let Some(message) = detail.strip_prefix(RAISED) {
        return message.to_string();
    }
    let place = error
        .line()
        .map_or(String::new(), |line| format!(", line {line}"));
    let colon = if detail.is_empty() { "" } else { ": " };
    format!("{NAME}{place}: {}{colon}{detail}", error.kind())
}

/// # Safety
/// As rust_abi.h says of each argument; so for every function below.
#[no_mangle]
pub unsafe extern "C" fn trs_template_compile(
    source: Slice,
    out: *mut *mut TrsTemplate,
    error: Sink,
) -> i32 {
    guard(error, || {
        let mut environment = environment();
        environment
            .add_template_owned(NAME, without_generation_tags(source.text()?))
            .map_err(|e| Fault::input(describe(&e)))?;
        *out = Box::into_raw(Box::new(TrsTemplate { environment }));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn trs_template_free(template: *mut TrsTemplate) {
    drop(Box::from_raw(template));
}

#[no_mangle]
pub unsafe extern "C" fn trs_template_render(
    template: *const TrsTemplate,
    variables: Slice,
    text: Sink,
    error: Sink,
) -> i32 {
    guard(error, || {
        let mut variables: Json = serde_json::from_slice(variables.bytes())
            .map_err(|e| Fault::input(format!("the template's variables: {e}")))?;
        if let Some(messages) = variables.get_mut("messages").and_then(Json::as_array_mut) {
            messages.iter_mut().for_each(normalize_message);
        }
        let rendered = (*template)
            .environment
            .get_template(NAME)
            .and_then(|template| template.render(Value::from(Serde(&variables))))
            .map_err(|e| Fault::input(describe(&e)))?;
        text.put(rendered.as_bytes());
        Ok(())
    })
}
