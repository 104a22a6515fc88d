//! Records: lists of `(NAME VALUE…)` in any order, each name at most once.

use super::fault::{Fault, Result, name_of, quote_names, values};
use crate::sexp::Node;

/// The fields of one record.
pub(super) struct Fields<'a> {
    owner: &'a str,
    offset: usize,
    found: Vec<(&'static str, &'a Node)>,
}

impl<'a> Fields<'a> {
    /// Reads `items`, the fields of the `owner` that stands at `offset`.
    pub(super) fn read(
        owner: &'a str,
        offset: usize,
        items: &'a [Node],
        allowed: &[&'static str],
    ) -> Result<Self> {
        let mut fields = Self { owner, offset, found: Vec::new() };
        for node in items {
            let name = fields.name(node, allowed)?;
            if fields.find(name).is_some() {
                return Err(Fault::new(node, format!("`{owner}` has `{name}` twice")));
            }
            fields.found.push((name, node));
        }
        Ok(fields)
    }

    /// The values of the field `name`, if it is there.
    pub(super) fn optional(&self, name: &str) -> &'a [Node] {
        self.find(name).map_or(&[], values)
    }

    /// The node of the field `name`, if it is there.
    pub(super) fn find(&self, name: &str) -> Option<&'a Node> {
        self.found.iter().find(|(found, _)| *found == name).map(|(_, node)| *node)
    }

    /// The node of the field `name`.
    pub(super) fn required(&self, name: &str) -> Result<&'a Node> {
        self.find(name).ok_or_else(|| {
            let message = format!("`{}` lacks its `({name} …)`", self.owner);
            Fault { offset: self.offset, message, hint: None }
        })
    }

    /// The one value of `field`.
    pub(super) fn single(&self, field: &'a Node, what: &str) -> Result<&'a Node> {
        match values(field) {
            [value] => Ok(value),
            all => {
                let message = format!("expected `{what}`, found {} values", all.len());
                Err(Fault::new(field, message))
            }
        }
    }

    fn name(&self, node: &Node, allowed: &[&'static str]) -> Result<&'static str> {
        let kind = format!("field of `{}`", self.owner);
        let Some(name) = name_of(node) else {
            let (shown, allowed) = (Fault::show(node), quote_names(allowed));
            let message = format!("expected a {kind}, found {shown}; allowed are {allowed}");
            return Err(Fault::new(node, message));
        };
        let known = allowed.iter().find(|known| name.as_atom().is_some_and(|name| name == **known));
        known.copied().ok_or_else(|| Fault::unknown(name, &kind, allowed))
    }
}
