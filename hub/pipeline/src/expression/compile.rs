//! From the text of an expression to its nodes.

use std::sync::Arc;

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue};

use super::node::{Fold, Function, Infix, Node, Style};
use super::pattern::Pattern;
use super::room::{DEPTH, ExpressionRoom};
use super::source::{parse, place, too_deep, too_many};
use crate::error::{Flaw, did_you_mean, excerpt, nearest};

/// What is known while one expression is compiled.
struct Compiler<'s, 'r> {
    source: &'s str,
    names: Vec<String>,
    room: &'r mut ExpressionRoom,
    depth: usize,
}

/// Compiles a text in which `variables` are known, and takes what it needs from `room`.
pub(super) fn compile(source: &str, variables: &[&str], room: &mut ExpressionRoom) -> Result<Node, Flaw> {
    let tree = parse(source, room)?;
    let mut compiler = Compiler {
        source,
        names: variables.iter().map(|name| (*name).to_owned()).collect(),
        room,
        depth: 0,
    };
    compiler.node(&tree)
}

/// Whether an expression looks at the variable at a place.
pub(super) fn reads(node: &Node, place: usize) -> bool {
    let any = |nodes: &[&Node]| nodes.iter().any(|node| reads(node, place));
    match node {
        Node::Null | Node::Bool(_) | Node::Int(_) | Node::Double(_) | Node::Text(_) => false,
        Node::Variable(own) => *own == place,
        Node::Field(of, _) | Node::Has(of, _) | Node::Not(of) | Node::Negative(of) | Node::Matches(of, _) => {
            reads(of, place)
        }
        Node::Index(both) | Node::And(both) | Node::Or(both) | Node::Two(_, both) | Node::Fold(_, both) => {
            any(&[&both.0, &both.1])
        }
        Node::If(three) | Node::MapSome(three) => any(&[&three.0, &three.1, &three.2]),
        Node::List(items) | Node::Call(_, items) => items.iter().any(|item| reads(item, place)),
        Node::Map(entries) => entries.iter().any(|(key, value)| any(&[key, value])),
    }
}

// === impl Compiler ===

impl Compiler<'_, '_> {
    fn node(&mut self, expression: &IdedExpr) -> Result<Node, Flaw> {
        if self.depth >= DEPTH {
            return Err(too_deep());
        }
        let Some(left) = self.room.nodes.checked_sub(1) else {
            return Err(too_many(self.room));
        };
        self.room.nodes = left;
        self.depth += 1;
        let node = self.kind(&expression.expr);
        self.depth -= 1;
        node
    }

    fn kind(&mut self, expression: &Expr) -> Result<Node, Flaw> {
        match expression {
            Expr::Literal(literal) => self.literal(literal),
            Expr::Ident(name) => self.variable(name),
            Expr::Select(select) => {
                let of = Box::new(self.node(&select.operand)?);
                let name = Arc::from(select.field.as_str());
                Ok(if select.test {
                    Node::Has(of, name)
                } else {
                    Node::Field(of, name)
                })
            }
            Expr::List(list) if list.optional_indices.is_empty() => Ok(Node::List(self.nodes(&list.elements)?)),
            Expr::Map(map) => {
                let mut entries = Vec::new();
                for entry in &map.entries {
                    match &entry.expr {
                        EntryExpr::MapEntry(entry) if !entry.optional => {
                            entries.push((self.node(&entry.key)?, self.node(&entry.value)?));
                        }
                        EntryExpr::MapEntry(_) | EntryExpr::StructField(_) => return Err(self.unknown("`?` in a map")),
                    }
                }
                Ok(Node::Map(entries))
            }
            Expr::Call(call) => self.call(call),
            Expr::Comprehension(comprehension) => self.fold(comprehension),
            Expr::Struct(of) => Err(self.unknown("a message type").at(place(self.source, &of.type_name))),
            Expr::List(_) | Expr::Unspecified => Err(self.unknown("this")),
        }
    }

    fn nodes(&mut self, expressions: &[IdedExpr]) -> Result<Vec<Node>, Flaw> {
        expressions.iter().map(|expression| self.node(expression)).collect()
    }

    fn two(&mut self, arguments: &[IdedExpr]) -> Result<Box<(Node, Node)>, Flaw> {
        match arguments {
            [a, b] => Ok(Box::new((self.node(a)?, self.node(b)?))),
            _ => Err(self.unknown("an operator without its two sides")),
        }
    }

    fn unknown(&self, what: &str) -> Flaw {
        Flaw::new(
            format!("{what} is not offered here"),
            "use values that JSON has, and string keys in maps",
        )
    }

    fn literal(&self, literal: &LiteralValue) -> Result<Node, Flaw> {
        match literal {
            LiteralValue::Null => Ok(Node::Null),
            LiteralValue::Boolean(value) => Ok(Node::Bool(*value.inner())),
            LiteralValue::Int(value) => Ok(Node::Int(*value.inner())),
            LiteralValue::Double(value) if value.inner().is_finite() => Ok(Node::Double(*value.inner())),
            LiteralValue::Double(_) => Err(Flaw::new("a number is too large", "use one that a double can be")),
            LiteralValue::String(value) => Ok(Node::Text(Arc::from(value.inner()))),
            LiteralValue::UInt(value) => Err(Flaw::new(
                "JSON has no unsigned integers",
                format!("write `{0}` instead of `{0}u`", value.inner()),
            )),
            LiteralValue::Bytes(_) => Err(Flaw::new(
                "JSON has no bytes",
                "write a string, without the `b` before it",
            )),
        }
    }

    fn variable(&self, name: &str) -> Result<Node, Flaw> {
        // The innermost of a name counts.
        if let Some(place) = self.names.iter().rposition(|known| known == name) {
            return Ok(Node::Variable(place));
        }
        let known: Vec<&str> = self.names.iter().map(String::as_str).collect();
        let cure = match nearest(name, &known) {
            Some(other) => format!("did you mean `{other}`?"),
            None if known.is_empty() => "write a constant: there is no event yet".to_owned(),
            None => format!(
                "the variables are {}: what an event carries is below `payload`, and a string stands in quotes",
                known.join(", ")
            ),
        };
        Err(Flaw::new(format!("there is no variable `{}`", excerpt(name, 40)), cure).at(place(self.source, name)))
    }

    fn call(&mut self, call: &CallExpr) -> Result<Node, Flaw> {
        if call.target.is_none()
            && let Some(node) = self.operator(&call.func_name, &call.args)
        {
            return node;
        }
        let name = call.func_name.as_str();
        if name == "matches" {
            return self.matches(call);
        }
        let known = Function::ALL.iter().find(|(_, known, ..)| *known == name);
        let Some((function, _, style, count)) = known else {
            return Err(self.no_function(name));
        };
        let member = call.target.is_some();
        let given = call.args.len() + usize::from(member);
        let fits = match style {
            Style::Global => !member,
            Style::Member => member,
            Style::Either => true,
        };
        if !fits || given != *count {
            let form = match (style, count) {
                (Style::Global, _) => format!("{name}(value)"),
                (_, 1) => format!("value.{name}()"),
                _ => format!("value.{name}(argument)"),
            };
            let flaw = Flaw::new(format!("`{name}` is called in another way"), format!("write `{form}`"));
            return Err(flaw.at(place(self.source, name)));
        }
        let mut arguments = Vec::new();
        for argument in call.target.as_deref().into_iter().chain(&call.args) {
            arguments.push(self.node(argument)?);
        }
        Ok(Node::Call(*function, arguments))
    }

    fn no_function(&self, name: &str) -> Flaw {
        let macros = ["has", "all", "exists", "exists_one", "map", "filter"];
        if macros.contains(&name) {
            let form = if name == "has" {
                "has(payload.member)"
            } else {
                &format!("list.{name}(item, condition)")
            };
            let flaw = Flaw::new(format!("`{name}` is called in another way"), format!("write `{form}`"));
            return flaw.at(place(self.source, name));
        }
        let functions = Function::ALL.iter().map(|(_, known, ..)| *known);
        let known: Vec<&str> = functions.chain(["matches"]).chain(macros).collect();
        let flaw = Flaw::new(
            format!("there is no function `{}`", excerpt(name, 40)),
            did_you_mean(name, &known),
        );
        flaw.at(place(self.source, name))
    }

    fn operator(&mut self, name: &str, arguments: &[IdedExpr]) -> Option<Result<Node, Flaw>> {
        if let Some((infix, ..)) = Infix::ALL.iter().find(|(_, known, _)| *known == name) {
            return Some(self.two(arguments).map(|both| Node::Two(*infix, both)));
        }
        Some(match (name, arguments) {
            ("_&&_", _) => self.two(arguments).map(Node::And),
            ("_||_", _) => self.two(arguments).map(Node::Or),
            ("_[_]", _) => self.two(arguments).map(Node::Index),
            ("!_", [of]) => self.node(of).map(|of| Node::Not(Box::new(of))),
            ("-_", [of]) => self.node(of).map(|of| Node::Negative(Box::new(of))),
            ("_?_:_", [condition, then, otherwise]) => self.three(condition, then, otherwise),
            _ => return None,
        })
    }

    fn three(&mut self, a: &IdedExpr, b: &IdedExpr, c: &IdedExpr) -> Result<Node, Flaw> {
        Ok(Node::If(Box::new((self.node(a)?, self.node(b)?, self.node(c)?))))
    }

    fn matches(&mut self, call: &CallExpr) -> Result<Node, Flaw> {
        let (of, pattern) = match (call.target.as_deref(), call.args.as_slice()) {
            (Some(of), [pattern]) | (None, [of, pattern]) => (of, pattern),
            _ => {
                let flaw = Flaw::new("`matches` is called in another way", "write `value.matches('pattern')`");
                return Err(flaw.at(place(self.source, "matches")));
            }
        };
        let Expr::Literal(LiteralValue::String(text)) = &pattern.expr else {
            let flaw = Flaw::new(
                "the pattern of `matches` is no literal",
                "write it in quotes: it is compiled once, before any event",
            );
            return Err(flaw.at(place(self.source, "matches")));
        };
        let of = self.node(of)?;
        let pattern = Pattern::compile(text.inner(), self.room.pattern_bytes);
        let pattern = pattern.map_err(|flaw| flaw.at(place(self.source, "matches")))?;
        self.room.pattern_bytes = self.room.pattern_bytes.saturating_sub(pattern.bytes());
        Ok(Node::Matches(Box::new(of), pattern))
    }

    /// Recognizes which macro was expanded into this. Nobody but the parser can write `@result`.
    fn fold(&mut self, of: &ComprehensionExpr) -> Result<Node, Flaw> {
        let range = self.node(&of.iter_range)?;
        self.names.push(of.iter_var.clone());
        let node = self.body(of, &range);
        self.names.pop();
        node
    }

    fn body(&mut self, of: &ComprehensionExpr, range: &Node) -> Result<Node, Flaw> {
        let Expr::Call(step) = &of.loop_step.expr else {
            return Err(self.unknown("this macro"));
        };
        let fold = |fold, body| Ok(Node::Fold(fold, Box::new((range.clone(), body))));
        match (step.func_name.as_str(), step.args.as_slice()) {
            ("_||_", [_, body]) => fold(Fold::Exists, self.node(body)?),
            ("_&&_", [_, body]) => fold(Fold::All, self.node(body)?),
            ("_+_", [_, added]) => fold(
                Fold::Map,
                self.node(single(added).ok_or_else(|| self.unknown("this macro"))?)?,
            ),
            ("_?_:_", [condition, added, _]) => {
                let condition = self.node(condition)?;
                let Expr::Call(added) = &added.expr else {
                    return Err(self.unknown("this macro"));
                };
                match added.args.as_slice() {
                    [_, one] if matches!(one.expr, Expr::Literal(_)) => fold(Fold::ExistsOne, condition),
                    [_, item] => {
                        let item = single(item).ok_or_else(|| self.unknown("this macro"))?;
                        match &item.expr {
                            Expr::Ident(name) if *name == of.iter_var => fold(Fold::Filter, condition),
                            _ => Ok(Node::MapSome(Box::new((range.clone(), condition, self.node(item)?)))),
                        }
                    }
                    _ => Err(self.unknown("this macro")),
                }
            }
            _ => Err(self.unknown("this macro")),
        }
    }
}

/// The only item of a list literal, which is what macros add to their result.
fn single(list: &IdedExpr) -> Option<&IdedExpr> {
    match &list.expr {
        Expr::List(list) if list.elements.len() == 1 => list.elements.first(),
        _ => None,
    }
}
