//! Cases: what a directory shows, in which order, over any pages.
#![allow(missing_docs)] // the names say it

use super::*;

pub async fn names_come_in_byte_order_on_any_page_size(t: Tester) {
    let files = [
        "foo",
        "foo-bar",
        "foo.txt",
        "foo/x",
        "foo/y/z",
        "foo0",
        "foo!",
        "a",
        "z",
        "Z",
        "über",
        "日本",
        "\u{1F600}",
        "sub/deep/er",
        "a b",
    ];
    for path in files {
        t.write(path, b"").await;
    }
    t.make_dir("empty").await;
    let mut expected: Vec<String> = files
        .iter()
        .map(|path| path.split_once('/').map_or((*path).to_owned(), |(first, _)| format!("{first}/")))
        .chain(["empty/".to_owned()])
        .collect();
    expected.sort();
    expected.dedup();
    for limit in (1..=expected.len() as u32 + 1).chain([10_000]) {
        assert_eq!(t.names("", limit).await, expected, "pages of {limit}");
    }
    assert_eq!(t.names("foo", 1).await, ["x", "y/"]);
}

pub async fn the_dead_are_not_listed(t: Tester) {
    for number in 0..12 {
        t.write("many", format!("{number}").as_bytes()).await;
        t.write(&format!("dead{number}"), b"").await;
        t.must(delete(&format!("dead{number}"))).await;
        t.write(&format!("gone{number}/a/b"), b"").await;
        t.must(rmdir(&format!("gone{number}"), true)).await;
    }
    t.write("z", b"").await;
    for limit in [1, 2, 100] {
        assert_eq!(t.names("", limit).await, ["many", "z"]);
    }
    let page = t.store.list(&dir(""), None, 1, 0).await.unwrap();
    assert!(matches!(&page.entries[0].1, Entry::File(head) if head.version == VersionNo(12)));
}

pub async fn names_that_stay_are_listed_once(t: Tester) {
    let stays: Vec<String> = (0..20).map(|n| format!("s{n:02}")).collect();
    for name in &stays {
        t.write(name, b"").await;
        t.write(&format!("{name}d/x"), b"").await;
    }
    let mut seen = Vec::new();
    let mut from = None;
    for round in 0.. {
        let page = t.store.list(&dir(""), from.as_ref(), 3, 0).await.unwrap();
        seen.extend(page.entries.iter().map(|(name, _)| name.clone()));
        // Names come before and after the cursor, and the last one shown goes.
        t.write(&format!("a{round}"), b"").await;
        t.write(&format!("s{round:02}-new"), b"").await;
        if let Some((name, Entry::File(_))) = page.entries.last() {
            t.must(delete(name)).await;
        }
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    for name in stays.iter().flat_map(|name| [name.clone(), format!("{name}d")]) {
        assert_eq!(seen.iter().filter(|seen| **seen == name).count(), 1, "{name} in {seen:?}");
    }
}

pub async fn odd_keys_hide_nothing(t: Tester) {
    for odd in ["d//b", "d/./x", "d/../x", "d/ok", ".", "..", "d/\u{F741}x"] {
        let odd = Put { key: Key::new(&format!("{ROOT}{odd}")).unwrap(), ..put("unused", b"odd") };
        t.must(Op::Put(odd)).await;
    }
    for limit in [1, 10] {
        let names = t.names("d", limit).await;
        assert!(names.contains(&"ok".to_owned()), "{names:?}");
        assert!(names.iter().all(|name| !["/", "./", "../", "", ".", ".."].contains(&name.as_str())), "{names:?}");
        assert_eq!(t.names("", limit).await, ["d/"]);
    }
    assert_eq!(t.text("d/ok").await.unwrap(), b"odd");
    assert_eq!(refused(t.run(rmdir("d", false)).await), Kind::NotEmpty);
}

pub async fn a_name_can_be_both(t: Tester) {
    t.write("a", b"file").await;
    t.write("a/b", b"below").await;
    t.write("a-b", b"").await;
    assert!(t.is_dir("a").await, "the directory wins");
    for limit in [1, 2, 10] {
        assert_eq!(t.names("", limit).await, ["a", "a-b", "a/"]);
    }
    t.must(delete("a")).await;
    assert_eq!(t.names("", 10).await, ["a-b", "a/"]);
    t.write("a", b"file").await;
    t.must(rmdir("a", true)).await;
    assert_eq!(t.text("a").await.unwrap(), b"file");
}

pub async fn what_is_deleted_comes_in_order(t: Tester) {
    for path in ["b", "a/x", "a/y", "back", "kept", "a-b"] {
        t.write(path, b"1").await;
    }
    for path in ["b", "a/x", "a-b", "back"] {
        t.must(delete(path)).await;
    }
    t.write("back", b"2").await;
    let deleted = |under: &'static str, after: Option<Key>, limit| {
        let store = t.store.clone();
        async move { store.deleted(&dir(under), after.as_ref(), limit).await.unwrap() }
    };
    let paths = |heads: &[Head]| heads.iter().map(|head| head.key.as_str()[ROOT.len()..].to_owned()).collect::<Vec<_>>();
    let first = deleted("", None, 2).await;
    assert_eq!(paths(&first), ["a-b", "a/x"]);
    assert!(first.iter().all(|head| !head.is_live() && head.version.0 == 2));
    let after = first.last().map(|head| head.key.clone());
    assert_eq!(paths(&deleted("", after, 10).await), ["b"]);
    assert_eq!(paths(&deleted("a", None, 10).await), ["a/x"]);
    assert!(deleted("none", None, 10).await.is_empty());
}

pub async fn trees_come_in_order(t: Tester) {
    for path in ["b", "a/x", "a/y/z", "a-b", "c/d"] {
        t.write(path, b"1").await;
        t.write(path, b"22").await;
    }
    t.make_dir("a").await;
    t.must(delete("b")).await;
    assert_eq!(t.tree().await, ["a-b", "a/", "a/x", "a/y/z", "c/d"]);
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let heads = t.store.tree(&dir(""), after.as_ref(), 2).await.unwrap();
        assert!(heads.len() <= 2);
        seen.extend(heads.iter().map(|head| head.key.as_str()[ROOT.len()..].to_owned()).filter(|path| !path.is_empty()));
        match heads.last() {
            Some(last) => after = Some(last.key.clone()),
            None => break,
        }
    }
    assert_eq!(seen, t.tree().await);
    let below: Vec<_> = t.store.tree(&dir("a/y"), None, 10).await.unwrap();
    assert_eq!(
        below.iter().map(|head| (head.key.clone(), head.version.0, head.meta.size)).collect::<Vec<_>>(),
        [(key("a/y/z"), 2, 2)]
    );
}

pub async fn a_missing_directory_lists_as_empty(t: Tester) {
    t.write("a", b"").await;
    assert!(t.names("nothing", 10).await.is_empty());
    assert!(t.names("a", 10).await.is_empty());
    assert!(t.store.tree(&dir("nothing"), None, 10).await.unwrap().is_empty());
}
