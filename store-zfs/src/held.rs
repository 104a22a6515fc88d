//! What a deletion does not free: a dataset that others are clones of waits in the trash for them.

use std::collections::HashSet;

use obuilder_core::ResultId;
use obuilder_core::contracts::Held;
use obuilder_core::error::StoreError;

use crate::layout::SNAPSHOT;
use crate::store::Inner;
use crate::sweep::{Clones, clones, names_in, waiting};

/// See [`obuilder_core::Store::held`].
pub(crate) fn held(store: &Inner) -> Result<Held, StoreError> {
    let pool = &store.pool;
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
    let names = rows.iter().map(|row| row[0].as_str());
    let whole: HashSet<_> = names.filter(|name| name.contains('@')).collect();
    let mut held = Held::default();
    for path in &waiting {
        let by = holders(store, &whole, &clones, path)?;
        if let Some(size) = used(path).filter(|_| !by.is_empty()) {
            held.waiting.push((size, by));
        }
    }
    for (origin, _) in &clones {
        if let Some(id) = origin.strip_prefix("result/").and_then(ResultId::parse) {
            let by = holders(store, &whole, &clones, origin)?;
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
    store: &Inner,
    whole: &HashSet<&str>,
    clones: &Clones,
    origin: &str,
) -> Result<Vec<Option<ResultId>>, StoreError> {
    let pool = &store.pool;
    let is_whole =
        |clone: &str| whole.contains(format!("{}@{SNAPSHOT}", pool.dataset(clone)).as_str());
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
                "result" if !is_whole(clone) => {
                    let id = ResultId::parse(name);
                    let claimed = id.map(|id| store.is_claimed(&id)).transpose()?;
                    by.extend(claimed.is_some_and(|claimed| claimed).then_some(None));
                }
                "trash" => next.push(clone),
                _ => {}
            }
        }
    }
    Ok(by)
}
