//! What a deletion does not free: a dataset that others are clones of waits in the trash for them.

use std::collections::HashSet;

use obuilder_core::ResultId;
use obuilder_core::contracts::Held;
use obuilder_core::error::StoreError;

use crate::layout::Pool;
use crate::sweep::{Clones, clones, names_in, waiting};

/// See [`obuilder_core::Store::held`].
pub(crate) fn held(pool: &Pool) -> Result<Held, StoreError> {
    let rows = pool.look_at_groups("name,origin,used")?;
    let clones = clones(pool, &rows);
    let trash = names_in(&rows, &pool.dataset("trash"));
    let trash: Vec<_> = trash.into_iter().map(|name| format!("trash/{name}")).collect();
    let waiting: HashSet<_> = waiting(&clones, &trash);
    let used = |path: &String| {
        let dataset = pool.dataset(path);
        let row = rows.iter().find(|row| row[0] == dataset)?;
        row[2].parse::<u64>().ok()
    };
    let mut held = Held { waiting: waiting.iter().filter_map(used).sum(), ..Held::default() };
    for (origin, _) in &clones {
        if let Some(id) = origin.strip_prefix("result/").and_then(ResultId::parse) {
            let by = holders(pool, &clones, origin)?;
            if !by.is_empty() {
                held.by.insert(id, by);
            }
        }
    }
    Ok(held)
}

/// What shares the room of `origin` besides results, which are known to stand on it: kept trees and trees of steps that run, also by
/// way of what waits in the trash.
fn holders(
    pool: &Pool,
    clones: &Clones,
    origin: &str,
) -> Result<Vec<Option<ResultId>>, StoreError> {
    let (mut by, mut seen, mut next) = (Vec::new(), HashSet::new(), vec![origin]);
    while let Some(origin) = next.pop() {
        for (_, clone) in clones.iter().filter(|(one, _)| one == origin) {
            let Some((group, name)) = clone.split_once('/') else { continue };
            if !seen.insert(clone) {
                continue;
            }
            match group {
                "failed" => by.push(ResultId::parse(name)),
                "result-tmp" if !pool.is_dead(group, name)? => by.push(None),
                "trash" => next.push(clone),
                _ => {}
            }
        }
    }
    Ok(by)
}
