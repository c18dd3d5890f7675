//! An expression as it is evaluated, and its canonical text.
//!
//! The macros of CEL are nodes of their own here, so that an evaluation needs no scopes but a stack of variables.

use std::fmt::Write as _;
use std::sync::Arc;

use super::pattern::Pattern;

/// One node.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(Arc<str>),
    /// A variable, by its place on the stack.
    Variable(usize),
    Field(Box<Node>, Arc<str>),
    Has(Box<Node>, Arc<str>),
    Index(Box<(Node, Node)>),
    Not(Box<Node>),
    Negative(Box<Node>),
    And(Box<(Node, Node)>),
    Or(Box<(Node, Node)>),
    If(Box<(Node, Node, Node)>),
    Two(Infix, Box<(Node, Node)>),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
    Call(Function, Vec<Node>),
    Matches(Box<Node>, Pattern),
    Fold(Fold, Box<(Node, Node)>),
    /// `list.map(x, condition, value)`.
    MapSome(Box<(Node, Node, Node)>),
}

/// Operators that need both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Infix {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
}

/// The macros over lists and maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fold {
    All,
    Exists,
    ExistsOne,
    Map,
    Filter,
}

/// The functions. Where it is called on a value (`a.size()`), that is the first argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Size,
    Contains,
    StartsWith,
    EndsWith,
    LowerAscii,
    UpperAscii,
    Trim,
    Split,
    Join,
    Int,
    Double,
    String,
    Bool,
}

/// How a function may be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// `f(a)`.
    Global,
    /// `a.f()`.
    Member,
    /// Both.
    Either,
}

// === impl Infix ===

impl Infix {
    pub(super) const ALL: &[(Self, &str, &str)] = &[
        (Self::Add, "_+_", "+"),
        (Self::Subtract, "_-_", "-"),
        (Self::Multiply, "_*_", "*"),
        (Self::Divide, "_/_", "/"),
        (Self::Modulo, "_%_", "%"),
        (Self::Equal, "_==_", "=="),
        (Self::NotEqual, "_!=_", "!="),
        (Self::Less, "_<_", "<"),
        (Self::LessEqual, "_<=_", "<="),
        (Self::Greater, "_>_", ">"),
        (Self::GreaterEqual, "_>=_", ">="),
        (Self::In, "@in", "in"),
    ];

    pub(super) fn sign(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(infix, ..)| *infix == self)
            .map_or("", |(.., sign)| sign)
    }
}

// === impl Fold ===

impl Fold {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Exists => "exists",
            Self::ExistsOne => "exists_one",
            Self::Map => "map",
            Self::Filter => "filter",
        }
    }
}

// === impl Function ===

impl Function {
    /// Each with its name, how it is called and how many arguments it takes, with the value that it is called on.
    pub(super) const ALL: &[(Self, &str, Style, usize)] = &[
        (Self::Size, "size", Style::Either, 1),
        (Self::Contains, "contains", Style::Member, 2),
        (Self::StartsWith, "startsWith", Style::Member, 2),
        (Self::EndsWith, "endsWith", Style::Member, 2),
        (Self::LowerAscii, "lowerAscii", Style::Member, 1),
        (Self::UpperAscii, "upperAscii", Style::Member, 1),
        (Self::Trim, "trim", Style::Member, 1),
        (Self::Split, "split", Style::Member, 2),
        (Self::Join, "join", Style::Member, 2),
        (Self::Int, "int", Style::Global, 1),
        (Self::Double, "double", Style::Global, 1),
        (Self::String, "string", Style::Global, 1),
        (Self::Bool, "bool", Style::Global, 1),
    ];

    pub(super) fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(function, ..)| *function == self)
            .map_or("", |(_, name, ..)| name)
    }

    fn style(self) -> Style {
        Self::ALL
            .iter()
            .find(|(function, ..)| *function == self)
            .map_or(Style::Global, |(_, _, style, _)| *style)
    }
}

// === impl Node ===

impl Node {
    /// Writes the expression so that equal expressions have equal texts, which are CEL again. `names` are the variables
    /// on the stack.
    pub(super) fn write(&self, names: &mut Vec<String>, to: &mut String) {
        match self {
            Self::Null => to.push_str("null"),
            Self::Bool(value) => to.push_str(if *value { "true" } else { "false" }),
            Self::Int(value) => _ = write!(to, "{value}"),
            Self::Double(value) => _ = write!(to, "{value:?}"),
            Self::Text(text) => quote(text, to),
            Self::Variable(place) => to.push_str(names.get(*place).map_or("", String::as_str)),
            Self::Field(of, name) => {
                of.write_operand(names, to);
                _ = write!(to, ".{name}");
            }
            Self::Has(of, name) => {
                to.push_str("has(");
                of.write_operand(names, to);
                _ = write!(to, ".{name})");
            }
            Self::Index(both) => {
                both.0.write_operand(names, to);
                to.push('[');
                both.1.write(names, to);
                to.push(']');
            }
            Self::Not(of) => {
                to.push('!');
                of.write_operand(names, to);
            }
            Self::Negative(of) => {
                // A minus directly before a number would be read as a part of it.
                to.push_str("-(");
                of.write(names, to);
                to.push(')');
            }
            Self::And(both) => both.0.write_infix("&&", &both.1, names, to),
            Self::Or(both) => both.0.write_infix("||", &both.1, names, to),
            Self::Two(infix, both) => both.0.write_infix(infix.sign(), &both.1, names, to),
            Self::If(three) => {
                three.0.write_operand(names, to);
                to.push_str(" ? ");
                three.1.write_operand(names, to);
                to.push_str(" : ");
                three.2.write_operand(names, to);
            }
            Self::List(items) => {
                to.push('[');
                write_all(items, names, to);
                to.push(']');
            }
            Self::Map(entries) => {
                to.push('{');
                for (i, (key, value)) in entries.iter().enumerate() {
                    to.push_str(if i > 0 { ", " } else { "" });
                    key.write(names, to);
                    to.push_str(": ");
                    value.write(names, to);
                }
                to.push('}');
            }
            Self::Call(function, arguments) => write_call(*function, arguments, names, to),
            Self::Matches(of, pattern) => {
                of.write_operand(names, to);
                to.push_str(".matches(");
                quote(pattern.text(), to);
                to.push(')');
            }
            Self::Fold(fold, both) => both.0.write_fold(fold.name(), &[&both.1], names, to),
            Self::MapSome(three) => three.0.write_fold("map", &[&three.1, &three.2], names, to),
        }
    }

    /// Writes it so that an operator or a field may follow.
    fn write_operand(&self, names: &mut Vec<String>, to: &mut String) {
        let compound = match self {
            Self::Not(_) | Self::Negative(_) | Self::And(_) | Self::Or(_) | Self::If(_) | Self::Two(..) => true,
            Self::Int(value) => *value < 0,
            Self::Double(value) => value.is_sign_negative(),
            _ => false,
        };
        to.push_str(if compound { "(" } else { "" });
        self.write(names, to);
        to.push_str(if compound { ")" } else { "" });
    }

    fn write_infix(&self, sign: &str, right: &Self, names: &mut Vec<String>, to: &mut String) {
        self.write_operand(names, to);
        _ = write!(to, " {sign} ");
        right.write_operand(names, to);
    }

    fn write_fold(&self, name: &str, bodies: &[&Self], names: &mut Vec<String>, to: &mut String) {
        self.write_operand(names, to);
        // No name of an author's: two that differ in it alone are equal.
        let variable = format!("v{}", names.len());
        _ = write!(to, ".{name}({variable}");
        names.push(variable);
        for body in bodies {
            to.push_str(", ");
            body.write(names, to);
        }
        names.pop();
        to.push(')');
    }
}

fn write_call(function: Function, arguments: &[Node], names: &mut Vec<String>, to: &mut String) {
    let arguments = match (function.style(), arguments) {
        (Style::Member, [of, rest @ ..]) => {
            of.write_operand(names, to);
            to.push('.');
            rest
        }
        (_, all) => all,
    };
    to.push_str(function.name());
    to.push('(');
    write_all(arguments, names, to);
    to.push(')');
}

fn write_all(nodes: &[Node], names: &mut Vec<String>, to: &mut String) {
    for (i, node) in nodes.iter().enumerate() {
        to.push_str(if i > 0 { ", " } else { "" });
        node.write(names, to);
    }
}

/// Writes a string literal.
fn quote(text: &str, to: &mut String) {
    to.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                to.push('\\');
                to.push(c);
            }
            c if c.is_control() => _ = write!(to, "\\U{:08x}", u32::from(c)),
            c => to.push(c),
        }
    }
    to.push('"');
}
