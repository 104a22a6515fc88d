//! The index: which results there are, when they were used, and what stands on what.
//!
//! SQLite at `STATE/db/db.sqlite`. The table `builds` is OBuilder's own and stays readable and writable by it; what
//! we know beyond it stands in tables of our own:
//!
//! ```text
//! builds            id, created, used, rc (number of children), parent        (OBuilder's)
//! obuild_meta       name, value               format: version of our tables
//! obuild_steps      id, heading, elapsed_ms   how a result was made
//! obuild_bases      id, name, stamp, digest   which image a base result is a copy of
//! obuild_failures   id, at, heading, reason, kept    the last failure of a step
//! ```
//!
//! The index is a cache of what the store holds: each result carries the same facts in a file of its own
//! ([`crate::cache::meta`]), so a lost row or a damaged database costs nothing but time stamps. That is why rows are
//! written without waiting for the disk.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, params};

use crate::cache::meta::Meta;
use crate::contracts::Fingerprint;
use crate::fault;
use crate::id::ResultId;

/// Version of our own tables.
const FORMAT: u32 = 1;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS builds (
    id      TEXT PRIMARY KEY,
    created DATETIME NOT NULL,
    used    DATETIME NOT NULL,
    rc      INTEGER NOT NULL,
    parent  TEXT,
    FOREIGN KEY (parent) REFERENCES builds (id) ON DELETE RESTRICT
);
CREATE INDEX IF NOT EXISTS obuild_parents ON builds (parent);
CREATE TABLE IF NOT EXISTS obuild_meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS obuild_steps (
    id TEXT PRIMARY KEY, heading TEXT NOT NULL, elapsed_ms INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS obuild_bases (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, stamp TEXT NOT NULL, digest TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS obuild_failures (
    id TEXT PRIMARY KEY, at DATETIME NOT NULL, heading TEXT NOT NULL, reason TEXT NOT NULL, kept INTEGER NOT NULL
);
";

/// Why the index could not be used.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The database was made by a newer version of this program.
    #[error("the index `{path}` has format {found}, and this program knows formats up to {FORMAT}")]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// SQLite failed.
    #[error("failed to {action} in the index `{path}`")]
    Sql {
        /// What was being done.
        action: &'static str,
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        #[source]
        source: rusqlite::Error,
    },
    /// The volume that holds it is full.
    #[error("no space left for the index `{path}` while trying to {action}")]
    Full {
        /// What was being done.
        action: &'static str,
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        #[source]
        source: rusqlite::Error,
    },
    /// The operating system failed.
    #[error("failed to prepare the index at `{path}`")]
    Io {
        /// The file.
        path: PathBuf,
        /// Its word.
        #[source]
        source: io::Error,
    },
}

/// What SQLite says when it cannot enlarge the file that readers share, for which it takes a full disk to fail.
const NO_ROOM_TO_SHARE: i32 = rusqlite::ffi::SQLITE_IOERR_SHMSIZE;

impl IndexError {
    fn sql(action: &'static str, path: &Path, source: rusqlite::Error) -> Self {
        let path = path.to_owned();
        match source.sqlite_error() {
            Some(error)
                if error.code == ErrorCode::DiskFull || error.extended_code == NO_ROOM_TO_SHARE =>
            {
                Self::Full { action, path, source }
            }
            _ => Self::Sql { action, path, source },
        }
    }

    fn is_damage(&self) -> bool {
        let Self::Sql { source, .. } = self else { return false };
        matches!(
            source.sqlite_error_code(),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
        )
    }

    /// Whether the volume that holds the index is full.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Full { .. } => true,
            Self::Io { source, .. } => source.kind() == io::ErrorKind::StorageFull,
            Self::Sql { .. } | Self::Newer { .. } => false,
        }
    }
}

/// A result as the index knows it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Entry {
    /// The result.
    pub id: ResultId,
    /// When it was made, UTC, `YYYY-MM-DD HH:MM:SS`.
    pub created: String,
    /// When a build last used it, likewise.
    pub used: String,
    /// How many results stand directly on it.
    pub children: u64,
    /// What it stands on; `None` for a base image.
    pub parent: Option<ResultId>,
    /// The heading of the step that made it, where known.
    pub heading: Option<String>,
    /// How long the step took, where known.
    pub elapsed: Option<Duration>,
}

/// The last failure of a step.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Failure {
    /// The id the result would have had.
    pub id: ResultId,
    /// When it failed, UTC, `YYYY-MM-DD HH:MM:SS`.
    pub at: String,
    /// The step's heading.
    pub heading: String,
    /// Why it failed, one line.
    pub reason: String,
    /// Whether its tree was kept.
    pub kept: bool,
    /// Its log.
    pub log: PathBuf,
}

/// The open index. May be shared between threads, and its file between processes.
pub(crate) struct Index {
    path: PathBuf,
    connection: Mutex<Connection>,
}

/// How long another process may keep the database to itself.
const PATIENCE: Duration = Duration::from_secs(30);

/// Two processes that make a database at once would wait for each other here; SQLite refuses one of them without waiting.
fn set_wal(db: &Connection) -> rusqlite::Result<()> {
    let begun = std::time::Instant::now();
    loop {
        match db.pragma_update(None, "journal_mode", "wal") {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && begun.elapsed() < PATIENCE =>
            {
                std::thread::sleep(Duration::from_millis(2));
            }
            done => return done,
        }
    }
}

impl Index {
    /// Opens the index below `state`, making it if needed. A damaged database is set aside under the returned
    /// path, and a new one begun.
    pub(crate) fn open(state: &Path) -> Result<(Self, Option<PathBuf>), IndexError> {
        let path = state.join("db/db.sqlite");
        fs::create_dir_all(state.join("db"))
            .map_err(|source| IndexError::Io { path: path.clone(), source })?;
        match Self::try_open(&path) {
            Err(error) if error.is_damage() => {
                let aside = set_aside(&path)
                    .map_err(|source| IndexError::Io { path: path.clone(), source })?;
                Ok((Self::try_open(&path)?, Some(aside)))
            }
            opened => Ok((opened?, None)),
        }
    }

    /// Opens the index below `state`, making it if needed; `None` when it is damaged, wherever that may be in it.
    pub(crate) fn open_sound(state: &Path) -> Result<Option<Self>, IndexError> {
        let path = state.join("db/db.sqlite");
        fs::create_dir_all(state.join("db"))
            .map_err(|source| IndexError::Io { path: path.clone(), source })?;
        let checked = Self::try_open(&path).and_then(|index| {
            let said = index.with("check the database", |db| {
                db.query_row("PRAGMA integrity_check(1)", [], |row| row.get::<_, String>(0))
            })?;
            Ok((index, said))
        });
        match checked {
            Ok((index, said)) if said == "ok" => Ok(Some(index)),
            Ok(_) => {
                // The next start must not trust it.
                let marked = fs::write(damage_marker(&path), "");
                marked.map(|()| None).map_err(|source| IndexError::Io { path, source })
            }
            Err(error) if error.is_damage() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn try_open(path: &Path) -> Result<Self, IndexError> {
        let damage = || {
            rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
                None,
            )
        };
        if damage_marker(path).exists() {
            return Err(IndexError::Sql {
                action: "open the database",
                path: path.to_owned(),
                source: damage(),
            });
        }
        let fail = |action| move |source| IndexError::sql(action, path, source);
        let connection = Connection::open(path).map_err(fail("open the database"))?;
        let index = Self { path: path.to_owned(), connection: Mutex::new(connection) };
        {
            let db = index.lock();
            let prepare = || {
                db.busy_timeout(PATIENCE)?;
                set_wal(&db)?;
                db.pragma_update(None, "synchronous", "normal")?;
                db.pragma_update(None, "foreign_keys", true)?;
                // A checkpoint waits for the disk; the automatic one, every thousand pages, is enough.
                db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
                db.query_row(
                    "SELECT count(*) FROM sqlite_master WHERE name = 'obuild_meta'",
                    [],
                    |row| row.get::<_, u32>(0),
                )
            };
            if prepare().map_err(fail("open the database"))? == 0 {
                db.execute_batch(&format!(
                    "BEGIN IMMEDIATE; {SCHEMA}
                     INSERT OR IGNORE INTO obuild_meta VALUES ('format', '{FORMAT}'); COMMIT;"
                ))
                .map_err(fail("make the tables"))?;
            }
            let found: u32 = db
                .query_row(
                    "SELECT CAST(value AS INTEGER) FROM obuild_meta WHERE name = 'format'",
                    [],
                    |row| row.get(0),
                )
                .map_err(fail("read the format"))?;
            if found > FORMAT {
                return Err(IndexError::Newer { path: path.to_owned(), found });
            }
            // Damage in a page that no query above has touched would surface in the middle of a build.
            db.query_row("SELECT max(rowid) FROM builds", [], |row| row.get::<_, Option<i64>>(0))
                .map_err(fail("read the results"))?;
        }
        Ok(index)
    }

    /// Ids of all results the index knows.
    pub(crate) fn ids(&self) -> Result<Vec<ResultId>, IndexError> {
        self.query("list the results", "SELECT id FROM builds", |row| row.get::<_, String>(0))
            .map(|ids| ids.iter().filter_map(|id| ResultId::parse(id)).collect())
    }

    /// All results, the last used first.
    pub(crate) fn entries(&self) -> Result<Vec<Entry>, IndexError> {
        let sql = format!("{ENTRY} ORDER BY used DESC, created DESC, builds.rowid DESC");
        Ok(self.query("list the results", &sql, entry)?.into_iter().flatten().collect())
    }

    /// One result.
    pub(crate) fn entry(&self, id: &ResultId) -> Result<Option<Entry>, IndexError> {
        self.with("look up a result", |db| {
            db.query_row(&format!("{ENTRY} WHERE builds.id = ?1"), [id.as_str()], entry).optional()
        })
        .map(Option::flatten)
    }

    /// Results that were last used, and steps that failed, at least `age` ago.
    pub(crate) fn older_than(&self, age: Duration) -> Result<HashSet<ResultId>, IndexError> {
        let age = format!("-{} seconds", age.as_secs());
        self.with("find old results", |db| {
            db.prepare(
                "SELECT id FROM builds WHERE used <= datetime('now', ?1)
                 UNION SELECT id FROM obuild_failures WHERE at <= datetime('now', ?1)",
            )?
            .query_map([age], |row| row.get::<_, String>(0))?
            .collect::<Result<Vec<_>, _>>()
        })
        .map(|ids| ids.iter().filter_map(|id| ResultId::parse(id)).collect())
    }

    /// What stands directly on `id`.
    pub(crate) fn children(&self, id: &ResultId) -> Result<Vec<ResultId>, IndexError> {
        self.with("find what stands on a result", |db| {
            db.prepare("SELECT id FROM builds WHERE parent = ?1")?
                .query_map([id.as_str()], |row| row.get::<_, String>(0))?
                .collect::<Result<Vec<_>, _>>()
        })
        .map(|ids| ids.iter().filter_map(|id| ResultId::parse(id)).collect())
    }

    /// `id` and everything that stands on it, those that stand on nothing else of the list first.
    pub(crate) fn with_descendants(&self, id: &ResultId) -> Result<Vec<ResultId>, IndexError> {
        self.with("find what stands on a result", |db| {
            db.prepare(
                "WITH RECURSIVE tree (id, depth) AS (
                     SELECT ?1, 0 UNION SELECT builds.id, depth + 1 FROM builds JOIN tree ON builds.parent = tree.id
                 ) SELECT id FROM tree GROUP BY id ORDER BY max(depth) DESC",
            )?
            .query_map([id.as_str()], |row| row.get::<_, String>(0))?
            .collect::<Result<Vec<_>, _>>()
        })
        .map(|ids| ids.iter().filter_map(|id| ResultId::parse(id)).collect())
    }

    /// Enters a finished result, in place of a row that may be there. A parent that the index does not know is entered
    /// as none.
    pub(crate) fn add(&self, id: &ResultId, meta: &Meta) -> Result<(), IndexError> {
        self.with("enter a result", |db| {
            let tx = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            tx.execute(
                "INSERT INTO builds (id, created, used, rc, parent)
                 VALUES (?1, datetime('now'), datetime('now'), 0, (SELECT id FROM builds WHERE id = ?2))
                 ON CONFLICT (id) DO UPDATE SET used = excluded.used, parent = coalesce(excluded.parent, parent)",
                params![id.as_str(), meta.parent.as_ref().map(ResultId::as_str)],
            )?;
            tx.execute(
                "UPDATE builds SET rc = (SELECT count(*) FROM builds AS child WHERE child.parent = builds.id)
                 WHERE id = ?1 OR id = ?2",
                params![id.as_str(), meta.parent.as_ref().map(ResultId::as_str)],
            )?;
            tx.execute(
                "INSERT OR REPLACE INTO obuild_steps VALUES (?1, ?2, ?3)",
                params![id.as_str(), meta.heading, meta.elapsed_ms],
            )?;
            if let Some(base) = &meta.base {
                set_base(&tx, id, &base.name, &base.fingerprint())?;
            }
            tx.execute("DELETE FROM obuild_failures WHERE id = ?1", [id.as_str()])?;
            fault::point("index-adding");
            tx.commit()
        })
    }

    /// Forgets a result. Results that still stand on it keep their rows and lose their parent.
    pub(crate) fn remove(&self, id: &ResultId) -> Result<(), IndexError> {
        self.with("remove a result", |db| {
            let tx = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            let id = id.as_str();
            tx.execute("UPDATE builds SET parent = NULL WHERE parent = ?1", [id])?;
            let parent: Option<String> = tx
                .query_row("SELECT parent FROM builds WHERE id = ?1", [id], |row| row.get(0))
                .optional()?
                .flatten();
            for table in ["builds", "obuild_steps", "obuild_bases", "obuild_failures"] {
                tx.execute(&format!("DELETE FROM {table} WHERE id = ?1"), [id])?;
            }
            tx.execute(
                "UPDATE builds SET rc = (SELECT count(*) FROM builds AS child WHERE child.parent = builds.id)
                 WHERE id = ?1",
                [parent],
            )?;
            fault::point("index-removing");
            tx.commit()
        })
    }

    /// Recounts every `rc`, which other programs are known to get wrong; who stands on nothing known stands on nothing.
    pub(crate) fn recount(&self) -> Result<(), IndexError> {
        self.with("recount references", |db| {
            db.execute(
                "UPDATE builds SET parent = NULL WHERE parent NOT IN (SELECT id FROM builds)",
                [],
            )?;
            db.execute(
                "UPDATE builds SET rc = counted.n FROM (
                     SELECT b.id AS id, count(c.id) AS n FROM builds b LEFT JOIN builds c ON c.parent = b.id GROUP BY b.id
                 ) AS counted WHERE counted.id = builds.id AND counted.n <> builds.rc",
                [],
            )
            .map(drop)
        })
    }

    /// Marks results as used now.
    pub(crate) fn touch<'a>(
        &self,
        ids: impl IntoIterator<Item = &'a ResultId>,
    ) -> Result<(), IndexError> {
        self.with("mark results as used", |db| {
            let tx = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            {
                let mut update =
                    tx.prepare("UPDATE builds SET used = datetime('now') WHERE id = ?1")?;
                for id in ids {
                    update.execute([id.as_str()])?;
                }
            }
            fault::point("index-touching");
            tx.commit()
        })
    }

    /// Which image the base result `id` is a copy of.
    pub(crate) fn base(&self, id: &ResultId) -> Result<Option<Fingerprint>, IndexError> {
        self.with("look up an image", |db| {
            db.query_row(
                "SELECT stamp, digest FROM obuild_bases WHERE id = ?1",
                [id.as_str()],
                |row| Ok(Fingerprint { stamp: row.get(0)?, digest: row.get(1)? }),
            )
            .optional()
        })
    }

    /// Remembers which image the base result `id` is a copy of.
    pub(crate) fn set_base(
        &self,
        id: &ResultId,
        name: &str,
        fingerprint: &Fingerprint,
    ) -> Result<(), IndexError> {
        self.with("remember an image", |db| set_base(db, id, name, fingerprint))
    }

    /// Remembers why a step failed; `log` is not stored, it follows from the id.
    pub(crate) fn add_failure(
        &self,
        id: &ResultId,
        heading: &str,
        reason: &str,
        kept: bool,
    ) -> Result<(), IndexError> {
        self.with("remember a failure", |db| {
            db.execute(
                "INSERT OR REPLACE INTO obuild_failures VALUES (?1, datetime('now'), ?2, ?3, ?4)",
                params![id.as_str(), heading, reason, kept],
            )
            .map(drop)
        })
    }

    /// Remembers that the tree of a failure is not kept any more.
    pub(crate) fn forget_kept(&self, id: &ResultId) -> Result<(), IndexError> {
        self.with("remember a failure", |db| {
            db.execute("UPDATE obuild_failures SET kept = 0 WHERE id = ?1", [id.as_str()]).map(drop)
        })
    }

    /// The remembered failures, the newest first; `log` gives the path of a failed step's log.
    pub(crate) fn failures(
        &self,
        log: impl Fn(&ResultId) -> PathBuf,
    ) -> Result<Vec<Failure>, IndexError> {
        let sql = "SELECT id, at, heading, reason, kept FROM obuild_failures ORDER BY at DESC, rowid DESC";
        let rows = self.query("list the failures", sql, |row| {
            let id: String = row.get(0)?;
            Ok((id, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
        })?;
        Ok(rows
            .into_iter()
            .filter_map(|(id, at, heading, reason, kept)| {
                let id = ResultId::parse(&id)?;
                let log = log(&id);
                Some(Failure { id, at, heading, reason, kept, log })
            })
            .collect())
    }

    fn query<T>(
        &self,
        action: &'static str,
        sql: &str,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, IndexError> {
        self.with(action, |db| db.prepare(sql)?.query_map([], read)?.collect())
    }

    fn with<T>(
        &self,
        action: &'static str,
        f: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
    ) -> Result<T, IndexError> {
        f(&mut self.lock()).map_err(|source| {
            let error = IndexError::sql(action, &self.path, source);
            if error.is_damage() {
                // Damage in the middle of the file is met late; the next start must not trust the file again.
                let _ = fs::write(damage_marker(&self.path), "");
            }
            error
        })
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const ENTRY: &str = "SELECT builds.id, created, used, rc, parent, heading, elapsed_ms
     FROM builds LEFT JOIN obuild_steps ON obuild_steps.id = builds.id";

/// Reads a row of [`ENTRY`]; `None` when its id is no id of ours.
fn entry(row: &Row<'_>) -> rusqlite::Result<Option<Entry>> {
    let Some(id) = ResultId::parse(&row.get::<_, String>(0)?) else { return Ok(None) };
    Ok(Some(Entry {
        id,
        created: row.get(1)?,
        used: row.get(2)?,
        children: row.get::<_, i64>(3)?.try_into().unwrap_or(0),
        parent: row.get::<_, Option<String>>(4)?.and_then(|id| ResultId::parse(&id)),
        heading: row.get(5)?,
        elapsed: row.get::<_, Option<u32>>(6)?.map(|ms| Duration::from_millis(ms.into())),
    }))
}

fn set_base(
    db: &Connection,
    id: &ResultId,
    name: &str,
    fingerprint: &Fingerprint,
) -> rusqlite::Result<()> {
    db.execute(
        "INSERT OR REPLACE INTO obuild_bases VALUES (?1, ?2, ?3, ?4)",
        params![id.as_str(), name, fingerprint.stamp, fingerprint.digest],
    )
    .map(drop)
}

/// A file that says that the database beside it was found damaged.
fn damage_marker(path: &Path) -> PathBuf {
    path.with_file_name("damaged")
}

/// Moves a damaged database and its companions out of the way; returns where the database is now.
fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = (1..)
        .map(|n| path.with_file_name(format!("db.sqlite.damaged-{n}")))
        .find(|candidate| !candidate.exists())
        .expect("there are more numbers than files");
    fs::rename(path, &aside)?;
    let marker = damage_marker(path);
    if marker.exists() {
        fs::remove_file(marker)?;
    }
    for suffix in ["-wal", "-shm"] {
        let mut companion = path.as_os_str().to_owned();
        companion.push(suffix);
        let mut target = aside.as_os_str().to_owned();
        target.push(suffix);
        match fs::rename(&companion, &target) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(aside)
}

#[cfg(test)]
mod tests;
