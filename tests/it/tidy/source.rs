//! A source file as the rules see it: words and marks with their lines, without what comments and strings say.

use std::ops::Range;

/// A word, a number, `::`, or one mark.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Token<'a> {
    pub(super) line: usize,
    pub(super) text: &'a str,
}

/// Comments, and the insides of strings and characters, become spaces: every other byte stays where it was.
pub(super) fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let (end, hidden) = skip(bytes, at);
        for byte in &mut out[hidden] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end;
    }
    // What was hidden begins and ends at ASCII marks.
    String::from_utf8(out).expect("whole characters were replaced")
}

/// Where the thing at `at` ends, and which part of it is not code.
fn skip(bytes: &[u8], at: usize) -> (usize, Range<usize>) {
    let rest = &bytes[at..];
    let in_word = at > 0 && is_word(bytes[at - 1]);
    if rest.starts_with(b"//") {
        let end = find(rest, b"\n").map_or(bytes.len(), |length| at + length);
        return (end, at..end);
    }
    if rest.starts_with(b"/*") {
        let end = at + comment_length(rest);
        return (end, at..end);
    }
    if !in_word && let Some((open, close)) = raw_string(rest) {
        let end = find(&rest[open..], &close).map_or(bytes.len(), |length| at + open + length);
        return ((end + close.len()).min(bytes.len()), at + open..end);
    }
    if rest[0] == b'"' {
        let end = at + quoted_length(rest, b'"');
        return (end, at + 1..end - 1);
    }
    if rest[0] == b'\'' && is_character(rest) {
        let end = at + quoted_length(rest, b'\'');
        return (end, at + 1..end - 1);
    }
    (at + 1, at..at)
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// Comments of this kind lie inside each other.
fn comment_length(bytes: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if bytes[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

/// `r"`, `br##"` and the like: the length of the opening, and what closes it.
fn raw_string(bytes: &[u8]) -> Option<(usize, Vec<u8>)> {
    let prefix = [&b"br"[..], b"cr", b"r"].into_iter().find(|prefix| bytes.starts_with(prefix))?;
    let hashes = bytes[prefix.len()..].iter().take_while(|&&byte| byte == b'#').count();
    let open = prefix.len() + hashes + 1;
    (bytes.get(open - 1) == Some(&b'"')).then(|| {
        let mut close = vec![b'"'];
        close.resize(1 + hashes, b'#');
        (open, close)
    })
}

/// From the opening quote to the closing one, both included.
fn quoted_length(bytes: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// `'a'` and `'\n'`, but not the lifetime in `&'a str`.
fn is_character(bytes: &[u8]) -> bool {
    if bytes.get(1) == Some(&b'\\') {
        return true;
    }
    let width = match bytes.get(1) {
        Some(0..0x80) => 1,
        Some(0x80..0xE0) => 2,
        Some(0xE0..0xF0) => 3,
        Some(_) => 4,
        None => return false,
    };
    bytes.get(1 + width) == Some(&b'\'')
}

fn is_word(byte: u8) -> bool {
    byte == b'_' || byte.is_ascii_alphanumeric() || byte >= 0x80
}

pub(super) fn tokens(blanked: &str) -> Vec<Token<'_>> {
    let bytes = blanked.as_bytes();
    let (mut out, mut at, mut line) = (Vec::new(), 0, 1);
    while at < bytes.len() {
        let length = match bytes[at] {
            byte if is_word(byte) => bytes[at..].iter().take_while(|&&byte| is_word(byte)).count(),
            b':' if bytes[at..].starts_with(b"::") => 2,
            _ => 1,
        };
        if bytes[at] == b'\n' {
            line += 1;
        } else if !bytes[at].is_ascii_whitespace() {
            out.push(Token { line, text: &blanked[at..at + length] });
        }
        at += length;
    }
    out
}

/// The first token behind the group that opens at `at`, whichever of `(`, `[`, `{` it is.
pub(super) fn behind_group(tokens: &[Token<'_>], at: usize) -> usize {
    let mut depth = 0;
    for (place, token) in tokens.iter().enumerate().skip(at) {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => {
                depth -= 1;
                if depth == 0 {
                    return place + 1;
                }
            }
            _ => {}
        }
    }
    tokens.len()
}

/// Whether the words of `pattern` stand one after another at `at`.
pub(super) fn stands_at(tokens: &[Token<'_>], at: usize, pattern: &[&str]) -> bool {
    tokens.len() >= at + pattern.len()
        && pattern.iter().zip(&tokens[at..]).all(|(wanted, token)| token.text == *wanted)
}

/// Lines of the modules that exist only in tests, and the names of those that are files of their own.
pub(super) fn test_modules<'a>(tokens: &[Token<'a>]) -> (Vec<Range<usize>>, Vec<&'a str>) {
    let (mut lines, mut files) = (Vec::new(), Vec::new());
    for at in 0..tokens.len() {
        if !stands_at(tokens, at, &["#", "[", "cfg", "(", "test", ")", "]"]) {
            continue;
        }
        let mut next = at + 7;
        while stands_at(tokens, next, &["#"]) {
            next = behind_group(tokens, next + 1);
        }
        if stands_at(tokens, next, &["mod"]) && stands_at(tokens, next + 2, &[";"]) {
            files.push(tokens[next + 1].text);
            continue;
        }
        // A module, a function, an implementation: to the end of its body.
        let Some(open) = (next..tokens.len()).find(|&place| matches!(tokens[place].text, "{" | ";")) else {
            continue;
        };
        let end = behind_group(tokens, open).max(open + 1);
        if tokens[open].text == "{" {
            lines.push(tokens[at].line..tokens[end - 1].line + 1);
        }
    }
    (lines, files)
}

/// Every path that a `use` brings in, braces opened: `use a::{b, c::d}` gives `a::b` and `a::c::d`.
pub(super) fn uses<'a>(tokens: &[Token<'a>]) -> Vec<(usize, Vec<&'a str>)> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at].text == "use" {
            at = open_use(tokens, at + 1, &[], &mut out);
        } else {
            at += 1;
        }
    }
    out
}

/// One branch of the tree; answers where it ends.
fn open_use<'a>(
    tokens: &[Token<'a>],
    mut at: usize,
    stem: &[&'a str],
    out: &mut Vec<(usize, Vec<&'a str>)>,
) -> usize {
    let mut path = stem.to_vec();
    while at < tokens.len() {
        match tokens[at].text {
            "::" => at += 1,
            "{" => {
                let end = behind_group(tokens, at);
                at += 1;
                while at + 1 < end {
                    at = open_use(tokens, at, &path, out);
                    at += usize::from(stands_at(tokens, at, &[","]));
                }
                return end;
            }
            "," | ";" | "}" => break,
            // The name it goes by here says nothing of where it comes from.
            "as" => at += 2,
            word => {
                path.push(word);
                at += 1;
            }
        }
    }
    if path.len() > stem.len() {
        out.push((tokens[at.min(tokens.len()) - 1].line, path));
    }
    at
}
