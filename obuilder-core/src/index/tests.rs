use super::*;
use crate::cache::meta::MetaBase;

fn id(n: u8) -> ResultId {
    ResultId::of(&[n])
}

fn on(parent: Option<u8>) -> Meta {
    Meta {
        parent: parent.map(id),
        heading: "/: (run (shell true))".into(),
        elapsed_ms: 1500,
        ..Meta::default()
    }
}

/// A chain 0 <- 1 <- 2, and 3 beside 1.
fn sample(dir: &Path) -> Index {
    let (index, aside) = Index::open(dir).unwrap();
    assert_eq!(aside, None);
    for (n, parent) in [(0, None), (1, Some(0)), (2, Some(1)), (3, Some(0))] {
        index.add(&id(n), &on(parent)).unwrap();
    }
    index
}

#[test]
fn counts_children_and_keeps_the_count_when_results_go_or_come_again() {
    let dir = tempfile::tempdir().unwrap();
    let index = sample(dir.path());
    let children = |n| index.entry(&id(n)).unwrap().unwrap().children;
    assert_eq!((children(0), children(1), children(2)), (2, 1, 0));
    index.add(&id(1), &on(Some(0))).unwrap();
    assert_eq!((children(0), children(1)), (2, 1), "entering a result again loses no reference");
    index.remove(&id(3)).unwrap();
    assert_eq!(children(0), 1);
    index.remove(&id(1)).unwrap();
    assert_eq!(children(0), 0);
    assert_eq!(
        index.entry(&id(2)).unwrap().unwrap().parent,
        None,
        "a result outlives what it stood on"
    );
}

#[test]
fn entries_tell_what_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let index = sample(dir.path());
    let entry = index.entry(&id(1)).unwrap().unwrap();
    assert_eq!(entry.parent, Some(id(0)));
    assert_eq!(entry.heading.as_deref(), Some("/: (run (shell true))"));
    assert_eq!(entry.elapsed, Some(Duration::from_millis(1500)));
    assert_eq!(entry.created.len(), "2026-01-01 00:00:00".len());
    assert_eq!(index.entries().unwrap().len(), 4);
    assert_eq!(index.entry(&id(9)).unwrap(), None);
}

#[test]
fn descendants_come_before_what_they_stand_on() {
    let dir = tempfile::tempdir().unwrap();
    let order = sample(dir.path()).with_descendants(&id(0)).unwrap();
    let at = |n| order.iter().position(|other| *other == id(n)).unwrap();
    assert_eq!(order.len(), 4);
    assert!(at(2) < at(1) && at(1) < at(0) && at(3) < at(0));
}

#[test]
fn obuilder_reads_and_writes_the_same_table() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("db")).unwrap();
    let theirs = Connection::open(dir.path().join("db/db.sqlite")).unwrap();
    theirs
        .execute_batch(
            "CREATE TABLE builds (
                 id TEXT PRIMARY KEY, created DATETIME NOT NULL, used DATETIME NOT NULL, rc INTEGER NOT NULL,
                 parent TEXT, FOREIGN KEY (parent) REFERENCES builds (id) ON DELETE RESTRICT)",
        )
        .unwrap();
    let insert =
        "INSERT INTO builds VALUES (?1, '2020-01-02 03:04:05', '2021-01-02 03:04:05', ?2, ?3)";
    theirs.execute(insert, params![id(0).as_str(), 1, None::<String>]).unwrap();
    theirs.execute(insert, params![id(1).as_str(), 0, id(0).as_str()]).unwrap();

    let (ours, _) = Index::open(dir.path()).unwrap();
    let entry = ours.entry(&id(0)).unwrap().unwrap();
    assert_eq!(
        (entry.created.as_str(), entry.used.as_str()),
        ("2020-01-02 03:04:05", "2021-01-02 03:04:05")
    );
    assert_eq!((entry.children, entry.heading), (1, None));
    ours.add(&id(2), &on(Some(1))).unwrap();
    drop(ours);

    let row = |sql| theirs.query_row(sql, [id(2).as_str()], |row| row.get::<_, String>(0));
    assert_eq!(row("SELECT parent FROM builds WHERE id = ?1").unwrap(), id(1).as_str());
    assert_eq!(
        row("SELECT strftime('%Y-%m-%d %H:%M:%S', created) FROM builds WHERE id = ?1")
            .unwrap()
            .len(),
        19
    );
    let rc: i64 = theirs
        .query_row("SELECT rc FROM builds WHERE id = ?1", [id(1).as_str()], |r| r.get(0))
        .unwrap();
    assert_eq!(rc, 1);
    let leaf = "SELECT id FROM builds WHERE rc = 0 AND used < '2100-01-01 00:00:00' ORDER BY used ASC LIMIT 1";
    let leaf: String = theirs.query_row(leaf, [], |r| r.get(0)).unwrap();
    assert_eq!(leaf, id(2).as_str(), "OBuilder's own pruning query finds the leaf");
}

#[test]
fn a_damaged_database_is_set_aside_and_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    drop(sample(dir.path()));
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(dir.path().join(format!("db/db.sqlite{suffix}")));
    }
    fs::write(
        dir.path().join("db/db.sqlite"),
        b"this is no database, whatever its name says".repeat(100),
    )
    .unwrap();
    let (index, aside) = Index::open(dir.path()).unwrap();
    assert_eq!(index.ids().unwrap(), []);
    assert!(fs::read(aside.unwrap()).unwrap().starts_with(b"this is no database"));
    assert_eq!(Index::open(dir.path()).unwrap().1, None);
}

#[test]
fn damage_met_late_is_remembered_for_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let index = sample(dir.path());
    let damaged = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    let met = index.with("read", |_| Err::<(), _>(rusqlite::Error::SqliteFailure(damaged, None)));
    assert!(met.is_err());
    drop(index);
    let (index, aside) = Index::open(dir.path()).unwrap();
    assert!(aside.is_some());
    assert_eq!(index.ids().unwrap(), []);
}

#[test]
fn an_index_of_a_newer_version_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let index = sample(dir.path());
    index.with("age", |db| db.execute("UPDATE obuild_meta SET value = '99'", [])).unwrap();
    drop(index);
    let Err(error) = Index::open(dir.path()) else { panic!("opened an index from the future") };
    assert!(matches!(error, IndexError::Newer { found: 99, .. }), "{error}");
}

#[test]
fn failures_and_images_are_remembered_until_the_step_succeeds_or_goes() {
    let dir = tempfile::tempdir().unwrap();
    let index = sample(dir.path());
    index.add_failure(&id(7), "/: (run (shell false))", "exit status 1", true).unwrap();
    let failures = index.failures(|id| Path::new("/logs").join(id.as_str())).unwrap();
    assert_eq!(failures.len(), 1);
    assert_eq!((failures[0].reason.as_str(), failures[0].kept), ("exit status 1", true));
    let base =
        MetaBase { name: "image".into(), stamp: "s".into(), digest: "d".into(), origin: None };
    index.add(&id(7), &Meta { base: Some(base.clone()), ..on(None) }).unwrap();
    assert_eq!(index.failures(|_| PathBuf::new()).unwrap(), []);
    assert_eq!(index.base(&id(7)).unwrap(), Some(base.fingerprint()));
    index.remove(&id(7)).unwrap();
    assert_eq!(index.base(&id(7)).unwrap(), None);
}

#[test]
fn several_threads_and_connections_write_at_once() {
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for part in 0..4 {
            let dir = dir.path();
            scope.spawn(move || {
                let (index, _) = Index::open(dir).unwrap();
                for n in 0..25 {
                    index.add(&id(part * 25 + n), &on(None)).unwrap();
                }
            });
        }
    });
    assert_eq!(Index::open(dir.path()).unwrap().0.ids().unwrap().len(), 100);
}
