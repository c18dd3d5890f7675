//! The values of an expression. Parts of an event are borrowed from its tree, and numbers stay as they were written until
//! somebody calculates with them.

use std::rc::Rc;

use alkhub_protocol::json::tree::{Members, Number, Tree};

/// One value.
#[derive(Clone, Debug)]
pub(crate) enum CelValue<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number of 64 bits.
    Int(i64),
    /// A double.
    Double(f64),
    /// A number of an event that is no whole number of 64 bits: it counts as the nearest double.
    Exact(Number<'a>),
    /// A string.
    Text(CelText<'a>),
    /// A list.
    List(CelList<'a>),
    /// A map, whose keys are strings.
    Map(CelMap<'a>),
}

#[derive(Clone, Debug)]
pub(crate) enum CelText<'a> {
    Borrowed(&'a str),
    Made(Rc<str>),
}

#[derive(Clone, Debug)]
pub(crate) enum CelList<'a> {
    Borrowed(&'a [Tree<'a>]),
    Made(Rc<Vec<CelValue<'a>>>),
}

#[derive(Clone, Debug)]
pub(crate) enum CelMap<'a> {
    Borrowed(&'a Members<'a>),
    /// Sorted by key; no two are equal.
    Made(Rc<Vec<(CelText<'a>, CelValue<'a>)>>),
}

// === impl CelValue ===

impl<'a> CelValue<'a> {
    pub(crate) fn of(tree: &'a Tree<'a>) -> Self {
        match tree {
            Tree::Null => Self::Null,
            Tree::Bool(value) => Self::Bool(*value),
            Tree::Number(number) => match number.as_str().parse() {
                Ok(whole) => Self::Int(whole),
                Err(_) => Self::Exact(*number),
            },
            Tree::String(text) => Self::Text(CelText::Borrowed(text)),
            Tree::Array(items) => Self::List(CelList::Borrowed(items)),
            Tree::Object(members) => Self::Map(CelMap::Borrowed(members)),
        }
    }

    pub(crate) fn text(text: &'a str) -> Self {
        Self::Text(CelText::Borrowed(text))
    }

    pub(super) fn list(items: Vec<Self>) -> Self {
        Self::List(CelList::Made(Rc::new(items)))
    }

    /// The name of its type, as messages say it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a bool",
            Self::Int(_) => "an int",
            Self::Double(_) | Self::Exact(_) => "a double",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }
}

// === impl CelText ===

impl CelText<'_> {
    pub(super) fn made(text: String) -> Self {
        Self::Made(text.into())
    }

    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Made(text) => text,
        }
    }
}

// === impl CelList ===

impl<'a> CelList<'a> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Borrowed(items) => items.len(),
            Self::Made(items) => items.len(),
        }
    }

    pub(crate) fn get(&self, at: usize) -> Option<CelValue<'a>> {
        match self {
            Self::Borrowed(items) => items.get(at).map(CelValue::of),
            Self::Made(items) => items.get(at).cloned(),
        }
    }
}

// === impl CelMap ===

impl<'a> CelMap<'a> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Borrowed(members) => members.len(),
            Self::Made(members) => members.len(),
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<CelValue<'a>> {
        match self {
            Self::Borrowed(members) => members.get(key).map(CelValue::of),
            Self::Made(members) => {
                let found = members.binary_search_by(|(own, _)| own.as_str().cmp(key)).ok()?;
                members.get(found).map(|(_, value)| value.clone())
            }
        }
    }

    /// Keys and values, sorted by key.
    pub(super) fn entries(&self) -> impl Iterator<Item = (CelText<'a>, CelValue<'a>)> {
        let (borrowed, made) = match self {
            Self::Borrowed(members) => (Some(*members), None),
            Self::Made(members) => (None, Some(Rc::clone(members))),
        };
        let borrowed = borrowed.into_iter().flat_map(|members| members.iter());
        let borrowed = borrowed.map(|(name, value)| (CelText::Borrowed(name.as_ref()), CelValue::of(value)));
        let made = made.into_iter().flat_map(|members| {
            let count = members.len();
            (0..count).filter_map(move |at| members.get(at).cloned())
        });
        borrowed.chain(made)
    }
}
