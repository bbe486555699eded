//! What every function of the C interface shares: borrowed strings in, sinks out, and no panic or
//! error that crosses the border other than as text.

use std::any::Any;
use std::panic::{catch_unwind, AssertUnwindSafe};

/// Bytes that the caller owns.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Slice {
    data: *const u8,
    size: usize,
}

impl Slice {
    /// # Safety
    /// `data` must point to `size` bytes that outlive the call.
    pub unsafe fn bytes<'a>(self) -> &'a [u8] {
        array(self.data, self.size)
    }

    /// # Safety
    /// As `bytes`.
    pub unsafe fn text<'a>(self) -> Result<&'a str, Fault> {
        std::str::from_utf8(self.bytes())
            .map_err(|e| Fault::input(format!("not valid UTF-8 at byte {}", e.valid_up_to())))
    }
}

/// # Safety
/// `data` must point to `size` elements that outlive the result; it may be null if there are none.
pub unsafe fn array<'a, T>(data: *const T, size: usize) -> &'a [T] {
    if size == 0 {
        &[]
    } else {
        std::slice::from_raw_parts(data, size)
    }
}

/// Where results go: the callee's bytes are copied by `write` before the call returns.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Sink {
    write: unsafe extern "C" fn(*mut libc::c_void, *const u8, usize),
    target: *mut libc::c_void,
}

impl Sink {
    pub fn put(&self, bytes: &[u8]) {
        // The caller's function takes any bytes; it is C++ that throws nothing across the border.
        unsafe { (self.write)(self.target, bytes.as_ptr(), bytes.len()) }
    }
}

/// A failure, with the code that the C interface returns for it.
pub struct Fault {
    code: i32,
    message: String,
}

impl Fault {
    /// The caller's input is at fault.
    pub fn input(message: impl Into<String>) -> Self {
        Fault {
            code: 1,
            message: message.into(),
        }
    }
}

/// Runs `body`; its failure or panic becomes a message in `error` and a code that is not 0.
pub fn guard(error: Sink, body: impl FnOnce() -> Result<(), Fault>) -> i32 {
    let fault = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return 0,
        Ok(Err(fault)) => fault,
        Err(panic) => Fault {
            code: 2,
            message: panic_message(panic.as_ref()),
        },
    };
    error.put(fault.message.as_bytes());
    fault.code
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(|s| s.to_string())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "unknown cause".to_string());
    format!("internal error of the text library: {text}")
}
