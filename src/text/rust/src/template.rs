//! Chat templates, in the environment that transformers gives them.

use crate::abi::{guard, Fault, Sink, Slice};
use crate::python_json::tojson;
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value};
use minijinja_contrib::pycompat::unknown_method_callback;
use std::ffi::CString;

pub struct TrsTemplate {
    environment: Environment<'static>,
}

const NAME: &str = "chat template";
/// Marks an error as the template's own words.
const RAISED: &str = "\u{1}";

fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
        env.set_syntax(syntax);
    }
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_undefined_behavior(UndefinedBehavior::Lenient);
    env.set_unknown_method_callback(unknown_method_callback);
    env.add_filter("tojson", tojson);
    env.add_function("raise_exception", raise_exception);
    env.add_function("strftime_now", strftime_now);
    env
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{message}")))
}

/// `datetime.now().strftime(format)`.
fn strftime_now(format: String) -> Result<String, Error> {
    let invalid = |_| Error::new(ErrorKind::InvalidOperation, "strftime_now: NUL in the format");
    let format = CString::new(format).map_err(invalid)?;
    let mut buffer = [0u8; 512];
    // time and localtime_r fill what they are given; strftime stops at the buffer's end.
    let length = unsafe {
        let now = libc::time(std::ptr::null_mut());
        let mut parts: libc::tm = std::mem::zeroed();
        libc::localtime_r(&now, &mut parts);
        libc::strftime(buffer.as_mut_ptr().cast(), buffer.len(), format.as_ptr(), &parts)
    };
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// `{% generation %}` only marks what an assistant said, for training; the block's scope is kept.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else { break };
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

fn describe(error: &Error) -> String {
    let detail = error.detail().unwrap_or_default();
    if let Some(message) = detail.strip_prefix(RAISED) {
        return message.to_string();
    }
    let place = error.line().map_or(String::new(), |line| format!(", line {line}"));
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
        let variables: Value = serde_json::from_slice(variables.bytes())
            .map_err(|e| Fault::input(format!("the template's variables: {e}")))?;
        let rendered = (*template)
            .environment
            .get_template(NAME)
            .and_then(|template| template.render(variables))
            .map_err(|e| Fault::input(describe(&e)))?;
        text.put(rendered.as_bytes());
        Ok(())
    })
}
