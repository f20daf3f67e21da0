//! A tool call's arguments as text are its arguments as values.
#![no_main]

use libfuzzer_sys::fuzz_target;
use writ_canonical::json::{JsonLimits, parse_strict};
use writ_canonical::mcp::{Message, parse};

fuzz_target!(|body: &[u8]| {
    if let Ok(Message::Request { tool: Some(tool), .. }) = parse(body, &JsonLimits::default()) {
        let text = parse_strict(tool.arguments_text.as_bytes(), &JsonLimits::default());
        assert_eq!(text, Ok(tool.arguments.into()));
    }
});
