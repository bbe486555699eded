//! How Python writes values: `json.dumps`, which `tojson` means in chat templates, and `str`.

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind};

/// The `tojson` filter of transformers' templates: `json.dumps` with `ensure_ascii=False` and its
/// keyword arguments; no HTML escapes, unlike Jinja's own filter of that name.
pub fn tojson(value: &Value, indent: Option<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let indent = match kwargs.get::<Option<Value>>("indent")?.or(indent) {
        Some(value) if !value.is_none() => Some(indent_text(&value)?),
        _ => None,
    };
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(fault("tojson: separators must be a pair of strings")),
        None => (
            if indent.is_some() { "," } else { ", " }.to_string(),
            ": ".to_string(),
        ),
    };
    let mut writer = Writer {
        out: String::new(),
        indent,
        item,
        key,
        ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        depth: 0,
    };
    kwargs.assert_all_used()?;
    writer.value(value)?;
    Ok(writer.out)
}

/// Python's `str(value)`: what `{{ value }}` prints. minijinja prints the same but for floats outside
/// 1e-4 to 1e16; its own text remains where `~` joins such floats.
pub fn text_of(value: &Value) -> String {
    match value.kind() {
        ValueKind::Number | ValueKind::Map | ValueKind::Seq => repr(value),
        _ => value.to_string(),
    }
}

fn repr(value: &Value) -> String {
    let items = || value.try_iter().into_iter().flatten();
    match value.kind() {
        ValueKind::Number => number(value),
        ValueKind::Map => {
            let item = |key: Value| {
                let member = value.get_item(&key).unwrap_or_default();
                format!("{}: {}", repr(&key), repr(&member))
            };
            format!("{{{}}}", items().map(item).collect::<Vec<_>>().join(", "))
        }
        ValueKind::Seq if !value.is_tuple() => {
            format!(
                "[{}]",
                items()
                    .map(|item| repr(&item))
                    .collect::<Vec<_>>()
                    .join(", ")
            )
        }
        _ => format!("{value:?}"),
    }
}

fn indent_text(value: &Value) -> Result<String, Error> {
    match value.as_str() {
        Some(text) => Ok(text.to_string()),
        None => Ok(" ".repeat(usize::try_from(value.clone())?.min(64))),
    }
}

fn fault(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

struct Writer {
    out: String,
    indent: Option<String>,
    item: String,
    key: String,
    ascii: bool,
    sort: bool,
    depth: usize,
}

impl Writer {
    fn value(&mut self, value: &Value) -> Result<(), Error> {
        match value.kind() {
            ValueKind::Undefined => return Err(fault("Undefined is not JSON serializable")),
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self
                .out
                .push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&number(value)),
            ValueKind::Map => self.map(value)?,
            ValueKind::Seq | ValueKind::Iterable => self.list(value)?,
            _ => self.string(value.as_str().unwrap_or(&value.to_string())),
        }
        Ok(())
    }

    fn map(&mut self, value: &Value) -> Result<(), Error> {
        let mut keys: Vec<Value> = value.try_iter()?.collect();
        if self.sort {
            keys.sort();
        }
        self.open('{');
        for (index, key) in keys.iter().enumerate() {
            self.before_item(index);
            self.string(&key_text(key));
            self.out.push_str(&self.key);
            self.value(&value.get_item(key)?)?;
        }
        self.close('}', keys.is_empty());
        Ok(())
    }

    fn list(&mut self, value: &Value) -> Result<(), Error> {
        self.open('[');
        let mut count = 0;
        for item in value.try_iter()? {
            self.before_item(count);
            self.value(&item)?;
            count += 1;
        }
        self.close(']', count == 0);
        Ok(())
    }

    fn open(&mut self, bracket: char) {
        self.out.push(bracket);
        self.depth += 1;
    }

    fn close(&mut self, bracket: char, empty: bool) {
        self.depth -= 1;
        if !empty {
            self.new_line();
        }
        self.out.push(bracket);
    }

    fn before_item(&mut self, index: usize) {
        if index > 0 {
            self.out.push_str(&self.item);
        }
        self.new_line();
    }

    fn new_line(&mut self) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            self.out.push_str(&indent.repeat(self.depth));
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' || (self.ascii && c > '~') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        self.out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

fn key_text(key: &Value) -> String {
    match key.kind() {
        ValueKind::None => "null".to_string(),
        ValueKind::Bool => if key.is_true() { "true" } else { "false" }.to_string(),
        ValueKind::Number => number(key),
        _ => key.as_str().map_or_else(|| key.to_string(), str::to_string),
    }
}

fn number(value: &Value) -> String {
    match f64::try_from(value.clone()) {
        Ok(float) if !value.is_integer() => float_repr(float),
        _ => value.to_string(),
    }
}

/// Python's `repr(float)`: the shortest digits that read back, scientific below 1e-4 and from 1e16.
fn float_repr(float: f64) -> String {
    if float.is_nan() {
        return "NaN".to_string();
    }
    if float.is_infinite() {
        return if float > 0.0 { "Infinity" } else { "-Infinity" }.to_string();
    }
    let scientific = format!("{float:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{float}");
        return if plain.contains('.') {
            plain
        } else {
            plain + ".0"
        };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}
