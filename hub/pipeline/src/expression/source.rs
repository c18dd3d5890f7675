//! The text of an expression: what is given to the parser, and what its errors say.
//!
//! The parser is the `cel` crate's own recursive one, not its default: that one (ANTLR) keeps what it learnt about texts for
//! ever in memory of the whole process, and took 72 ms for a hundred tokens of nonsense where this one took 20, in a build
//! for tests.

use cel::common::ast::IdedExpr;
use cel::parser::PrattParser;
use cel::parser::pratt_parser::{Lexer, TokenKind};

use super::room::{DEPTH, ExpressionRoom};
use crate::error::{Flaw, excerpt};

/// How deep brackets nest in a text that is given to the parser.
const BRACKETS: u16 = 32;

/// The longest text that is given to the parser, whatever the limits say: what it makes of one is freed recursively.
const LONGEST: usize = 4_096;

/// Parses a text, unless it is one that the parser should not see.
pub(super) fn parse(source: &str, room: &ExpressionRoom) -> Result<IdedExpr, Flaw> {
    check_text(source, room)?;
    let parser = PrattParser::new()
        .max_recursion_depth(BRACKETS)
        .error_recovery_limit(4)
        .error_reporting_limit(4);
    parser.parse(source).map_err(|errors| syntax(source, &errors))
}

/// Where a name stands.
pub(super) fn place(source: &str, name: &str) -> Option<usize> {
    let mut lexer = Lexer::new(source);
    loop {
        let token = lexer.lex();
        match token.kind {
            TokenKind::TokEnd | TokenKind::TokError => return None,
            TokenKind::TokIdent if source.get(token.start..token.end) == Some(name) => {
                return Some(token.start);
            }
            _ => {}
        }
    }
}

/// Refuses a text that the parser should not see: a long or a deep one, or one of too many tokens.
fn check_text(source: &str, room: &ExpressionRoom) -> Result<(), Flaw> {
    let most = room.expression_bytes.min(LONGEST);
    if source.len() > most {
        return Err(Flaw::new(
            format!("the expression has {} bytes", source.len()),
            format!("an expression may have {most}: shorten it, or split it into several steps"),
        ));
    }
    if source.trim().is_empty() {
        return Err(Flaw::new(
            "the expression is empty",
            "write one, such as `payload.status == 'open'`",
        ));
    }
    let (mut depth, mut tokens) = (0_usize, 0);
    let mut lexer = Lexer::new(source);
    loop {
        let token = lexer.lex();
        match token.kind {
            TokenKind::TokEnd | TokenKind::TokError => return Ok(()),
            TokenKind::TokWhitespace | TokenKind::TokComment => continue,
            TokenKind::TokLeftParen | TokenKind::TokLeftBracket | TokenKind::TokLeftBrace | TokenKind::TokQuestion => {
                depth += 1;
            }
            TokenKind::TokRightParen | TokenKind::TokRightBracket | TokenKind::TokRightBrace => {
                depth = depth.saturating_sub(1);
            }
            _ => {}
        }
        tokens += 1;
        if depth > usize::from(BRACKETS) {
            return Err(too_deep().at(Some(token.start)));
        }
        // A node has three tokens at most that are no node of their own, but for brackets.
        if tokens > room.nodes.saturating_mul(4) + 16 {
            return Err(too_many(room).at(Some(token.start)));
        }
    }
}

pub(super) fn too_deep() -> Flaw {
    Flaw::new(
        "the expression nests too deep",
        format!("use fewer of them in a row: {BRACKETS} brackets and `?`, and {DEPTH} operators, may be open at once"),
    )
}

pub(super) fn too_many(room: &ExpressionRoom) -> Flaw {
    Flaw::new(
        "the expressions of the pipeline are too large together",
        format!(
            "shorten them: there is room for {} more names, literals and operators",
            room.nodes
        ),
    )
}

/// The first of the parser's errors.
fn syntax(source: &str, errors: &cel::ParseErrors) -> Flaw {
    let Some(first) = errors.errors.first() else {
        return Flaw::new("the expression is no CEL", "check its syntax");
    };
    let message = first.msg.trim_start_matches("Syntax error: ");
    // The message repeats what was found, and lists what would do.
    let message = message.split(" expecting {").next().unwrap_or(message);
    let (line, column) = first.pos;
    let before = source
        .split_inclusive('\n')
        .take(usize::try_from(line - 1).unwrap_or(0));
    let start: usize = before.map(str::len).sum();
    let position = usize::try_from(column - 1).ok().filter(|_| line > 0);
    Flaw::new(
        format!("the expression is no CEL ({})", excerpt(message, 80)),
        "check operators, quotes and brackets there",
    )
    .at(position.map(|column| (start + column).min(source.len())))
}
