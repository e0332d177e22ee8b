//! How results look on a terminal: its width and its colours.

use std::io::{self, IsTerminal};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};

/// What is wrong.
pub(super) const BAD: Style = AnsiColor::Red.on_default();
/// What may change, or should be looked at.
pub(super) const OPEN: Style = AnsiColor::Yellow.on_default();

/// Narrower terminals are treated as this wide, and break lines themselves.
const MIN_WIDTH: usize = 40;

/// How a text for people is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// Columns of the terminal; `None` for a file or a pipe, whose lines are as long as they are.
    pub(super) width: Option<usize>,
    pub(super) colours: bool,
}

impl Look {
    /// The look of standard output.
    pub(super) fn of_stdout() -> Self {
        let stdout = io::stdout();
        let is_terminal = stdout.is_terminal();
        let size = is_terminal.then(|| terminal_size::terminal_size_of(&stdout));
        let width = size.flatten().map(|(width, _)| usize::from(width.0));
        Self {
            width: width.map(|width| width.max(MIN_WIDTH)),
            colours: AutoStream::choice(&stdout) != ColorChoice::Never,
        }
    }

    /// The text in this style, if colours are shown.
    pub(super) fn paint(self, style: Option<Style>, text: &str) -> String {
        match style {
            Some(style) if self.colours && !text.is_empty() => format!("{style}{text}{style:#}"),
            _ => text.to_owned(),
        }
    }

    /// A paragraph, whose lines after the first are indented. On a terminal, none is wider than it,
    /// unless a single word is.
    pub(super) fn paragraph(self, style: Option<Style>, text: &str) -> String {
        const INDENT: usize = 2;
        let Some(width) = self.width else {
            return self.paint(style, text) + "\n";
        };
        let lines = wrapped(text, width, width - INDENT).into_iter().enumerate();
        let lines = lines.map(|(number, line)| {
            let indent = if number == 0 { 0 } else { INDENT };
            format!("{:indent$}{}\n", "", self.paint(style, &line))
        });
        lines.collect()
    }
}

/// Whether log lines on standard error have colours.
pub(super) fn colours_log() -> bool {
    AutoStream::choice(&io::stderr()) != ColorChoice::Never
}

/// The words of a text in lines: the first of so many characters at most, the others of so many.
pub(super) fn wrapped(text: &str, first_width: usize, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        let room = if lines.is_empty() { first_width } else { width };
        let length = line.chars().count() + 1 + word.chars().count();
        if line.is_empty() {
            line.push_str(word);
        } else if length <= room {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(std::mem::replace(&mut line, word.to_owned()));
        }
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_wrapped_and_none_is_lost() {
        let text = "one two three-and-a-half four five";
        assert_eq!(
            wrapped(text, 7, 10),
            ["one two", "three-and-a-half", "four five"]
        );
        for width in 1..40 {
            assert_eq!(wrapped(text, width, width).join(" "), text);
        }
    }

    #[test]
    fn a_paragraph_is_one_line_unless_it_is_on_a_terminal() {
        let text = "placed 2026-10-01: the server said no";
        let plain = Look::default();
        assert_eq!(plain.paragraph(Some(BAD), text), format!("{text}\n"));
        let look = Look {
            width: Some(20),
            colours: true,
        };
        assert_eq!(
            look.paragraph(Some(BAD), text),
            "\u{1b}[31mplaced 2026-10-01:\u{1b}[0m\n  \u{1b}[31mthe server said no\u{1b}[0m\n"
        );
    }
}
