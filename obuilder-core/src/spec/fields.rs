//! Records: lists of `(NAME VALUE…)` in any order, each name at most once.

use super::parser::{Fault, Result, quote_names};
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
        let read = node.as_list().and_then(<[Node]>::first).and_then(Node::as_atom);
        let Some(read) = read else {
            let message = format!(
                "expected a field of `{}`, found {}; allowed are {}",
                self.owner,
                Fault::show(node),
                quote_names(allowed)
            );
            return Err(Fault::new(node, message));
        };
        match allowed.iter().find(|name| read == **name) {
            Some(name) => Ok(name),
            None => Err(Fault::unknown(node, &format!("field of `{}`", self.owner), read, allowed)),
        }
    }
}

/// What stands behind the name of a field.
pub(super) fn values(field: &Node) -> &[Node] {
    field.as_list().and_then(|items| items.get(1..)).unwrap_or_default()
}
