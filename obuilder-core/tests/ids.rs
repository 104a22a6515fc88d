//! Ids that OBuilder gave.

use obuilder_core::bstr::{BString, ByteSlice};
use obuilder_core::id::{CopyKey, ResultId, RunKey, base_id};
use obuilder_core::manifest::{CopyItems, CopyShapeError, Manifest};
use obuilder_core::spec::User;

const BASE: &str =
    "patricoferris/empty@sha256:b95ca2b377dd736f609f0a10d63318c9f627a817823cf416402a29bfe9202bb9";

#[test]
fn a_run_on_a_pinned_base() {
    let base = base_id(BASE.into());
    assert_eq!(base.as_str(), "1e8a7b908b7883f051110a922dc647791b81e0d658f5c1bdd8242d9ab898f8ae");
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let key = RunKey {
        base: &base,
        workdir: b"/".as_bstr(),
        user: &User::ROOT,
        env: &[("PATH".into(), path.into())],
        cmd: b"mkdir hello".as_bstr(),
        shell: &["/bin/bash".into(), "-c".into()],
        network: &[],
        secrets: &[],
    };
    assert_eq!(
        key.id().as_str(),
        "ba0dc81067c02a45ad4a8cdbbca046aa1e59a37deca612c6a4f8698ae67e200f"
    );
    let other_user = RunKey { user: &User::Name("root".into()), ..key };
    assert_ne!(other_user.id(), key.id());
}

fn file(path: &str) -> Manifest {
    Manifest::File { path: path.into(), sha256: ResultId::of(b"").to_string() }
}

#[test]
fn children_are_sorted_by_the_bytes_of_their_names() {
    let names = ["b", "B b", "é", "a", "a.b", "a-b", "Z", ".git"];
    let dir = Manifest::dir("d", names.iter().map(|name| file(&format!("d/{name}"))).collect());
    let Manifest::Dir { children, .. } = &dir else { panic!("a directory") };
    let sorted: Vec<String> = children.iter().map(|child| child.name().to_string()).collect();
    assert_eq!(sorted, [".git", "B b", "Z", "a", "a-b", "a.b", "b", "é"]);
    assert_eq!(dir.path(), "d");
}

#[test]
fn manifests_print_as_ids_need_them() {
    let link = Manifest::Symlink { path: "d/l".into(), target: "../x y".into() };
    let dir = Manifest::dir("", vec![link]);
    let dst = |dst: &str| BString::from(dst);
    let into = CopyItems::new(vec![dir.clone()], dst("/w/")).expect("a directory");
    assert_eq!(
        into.to_sexp().to_machine(),
        r#"(Copy_items(((Dir(""((Symlink(d/l"../x y"))))))/w/))"#
    );
    let at = CopyItems::new(vec![dir.clone()], dst("/w")).expect("one item");
    assert_eq!(at.to_sexp().to_machine(), r#"(Copy_item((Dir(""((Symlink(d/l"../x y")))))/w))"#);
    let base = base_id("x".into());
    let id = |items| CopyKey { base: &base, user: &User::ROOT, items }.id();
    assert_ne!(id(&into), id(&at));

    assert_eq!(CopyItems::new(vec![], dst("/w/")), Err(CopyShapeError::NoSource));
    assert_eq!(
        CopyItems::new(vec![dir.clone(), dir], dst("/w")),
        Err(CopyShapeError::NotADirectory)
    );
}
