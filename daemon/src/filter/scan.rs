//! The grammar of filters: tokens, selectors and quoted strings.

use regex::Regex;

use super::{Selector, Test};
use crate::error::{Error, Result, invalid};

/// Reads selectors from the text of one filter.
pub(super) struct Parser<'a> {
    input: &'a str,
    position: usize,
}

impl<'a> Parser<'a> {
    pub(super) fn new(input: &'a str) -> Self {
        Self { input, position: 0 }
    }

    /// Parses the whole text: `selector ("," selector)*`.
    pub(super) fn selectors(mut self) -> Result<Vec<Selector>> {
        let mut selectors = vec![self.selector()?];
        loop {
            self.skip_space();
            match self.peek() {
                None => return Ok(selectors),
                Some(',') => {
                    self.next();
                    selectors.push(self.selector()?);
                }
                Some(_) => return Err(self.error("unexpected input")),
            }
        }
    }

    fn selector(&mut self) -> Result<Selector> {
        let path = self.path()?;
        self.skip_space();
        if matches!(self.peek(), None | Some(',')) {
            return Ok(Selector {
                path,
                test: Test::Present,
            });
        }
        let operator = self.take_while(|c| matches!(c, '=' | '!' | '~'));
        let test: fn(String) -> Test = match operator {
            "==" => Test::Equal,
            "!=" => Test::NotEqual,
            "~=" => |pattern| Test::Matches(Regex::new(&pattern).ok()),
            "" => return Err(self.error("expected an operator (\"==\"|\"!=\"|\"~=\")")),
            _ => return Err(self.error(format!("unsupported operator {operator:?}"))),
        };
        self.skip_space();
        let value = self.value(operator == "~=")?;
        Ok(Selector {
            path,
            test: test(value),
        })
    }

    fn path(&mut self) -> Result<Vec<String>> {
        let mut path = vec![self.field()?];
        while self.peek() == Some('.') {
            self.next();
            path.push(self.field()?);
        }
        Ok(path)
    }

    fn field(&mut self) -> Result<String> {
        self.skip_space();
        if self.peek() == Some('"') {
            return self.quoted();
        }
        let field = self.take_while(|c| c == '_' || c.is_ascii_alphanumeric());
        if field.is_empty() {
            return Err(self.error("expected field or quoted"));
        }
        Ok(field.to_owned())
    }

    fn value(&mut self, pattern: bool) -> Result<String> {
        match self.peek() {
            Some('"') => return self.quoted(),
            Some('/' | '|') if pattern => return self.quoted(),
            Some('/' | '|') => return Err(self.error("invalid quote encountered")),
            _ => {}
        }
        let value = self.take_while(|c| c != ',' && !c.is_whitespace() && !c.is_control());
        if value.is_empty() || value.starts_with(['=', '!', '~', '.']) {
            return Err(self.error("expected value or quoted"));
        }
        Ok(value.to_owned())
    }

    /// Reads a string in Go's syntax, closed by the character that opens it.
    fn quoted(&mut self) -> Result<String> {
        let quote = self.next().expect("the caller saw the quote");
        let mut text = String::new();
        loop {
            match self.next() {
                None | Some('\n') => return Err(self.error("quoted literal not terminated")),
                Some('\\') => self.escape(quote, &mut text)?,
                Some(c) if c == quote => return Ok(text),
                Some(c) => text.push(c),
            }
        }
    }

    fn escape(&mut self, quote: char, text: &mut String) -> Result<()> {
        let character = match self.next() {
            Some('a') => '\x07',
            Some('b') => '\x08',
            Some('f') => '\x0c',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('v') => '\x0b',
            Some('\\') => '\\',
            Some(c) if c == quote => quote,
            Some('x') => self.digits(2, 16)?,
            Some('u') => self.digits(4, 16)?,
            Some('U') => self.digits(8, 16)?,
            Some('0'..='7') => {
                self.position -= 1;
                self.digits(3, 8)?
            }
            _ => return Err(self.error("illegal escape sequence")),
        };
        text.push(character);
        Ok(())
    }

    fn digits(&mut self, count: usize, radix: u32) -> Result<char> {
        let rest = &self.input[self.position..];
        let digits = rest.get(..count).unwrap_or_default();
        let code = u32::from_str_radix(digits, radix).ok();
        let character = code
            .filter(|_| digits.chars().all(|c| c.is_digit(radix)))
            .and_then(char::from_u32)
            .ok_or_else(|| self.error("illegal numeric escape sequence"))?;
        self.position += count;
        Ok(character)
    }

    fn peek(&self) -> Option<char> {
        self.input[self.position..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.position += next.len_utf8();
        Some(next)
    }

    fn skip_space(&mut self) {
        self.take_while(char::is_whitespace);
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = &self.input[self.position..];
        let end = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
        self.position += end;
        &rest[..end]
    }

    fn error(&self, message: impl std::fmt::Display) -> Error {
        let (before, after) = self.input.split_at(self.position);
        let mut after = after.chars();
        let place = match after.next() {
            Some(at) => format!("{before} >|{at}|< {}", after.as_str()),
            None => before.to_owned(),
        };
        invalid(format!("filters: parse error: [{place}]: {message}"))
    }
}
