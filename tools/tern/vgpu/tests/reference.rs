// SPDX-License-Identifier: MIT OR Apache-2.0

//! The tables of the hardware reference and the layout that is compiled say the same.

use std::collections::BTreeMap;

const LAYOUT: &str = include_str!("../../../../drivers/gpu/drm/tern/hw.rs");
const REFERENCE: &str = include_str!("../../../../Documentation/gpu/tern-hw.rst");

/// Evaluates an integer, or a shift of one.
fn value(text: &str) -> Option<u64> {
    if let Some((value_of, by)) = text.split_once("<<") {
        return Some(value(value_of)? << value(by)?);
    }
    let text = text.trim().replace('_', "");
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Size of a type in bytes.
fn size(name: &str) -> u64 {
    if let Some((element, count)) = name.trim_matches(['[', ']']).split_once(';') {
        return size(element) * value(count).unwrap();
    }
    match name.trim() {
        "u32" => 4,
        "u64" => 8,
        other => panic!("the layout has a member of type {other}"),
    }
}

/// Constants by name, and offsets of members by `Structure.member`.
fn layout() -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    let mut structure = None;
    for line in LAYOUT.lines() {
        if let Some(rest) = line.strip_prefix("pub const ") {
            let (name, rest) = rest.split_once(':').unwrap();
            let text = rest.split_once('=').unwrap().1.trim_end_matches(';');
            found.insert(name.to_string(), value(text).expect(line));
        } else if let Some(rest) = line.strip_prefix("pub struct ") {
            structure = Some((rest.trim_end_matches(" {"), 0));
        } else if line == "}" {
            structure = None;
        } else if let (Some((name, offset)), Some(member)) =
            (&mut structure, line.strip_prefix("    pub "))
        {
            let (member, kind) = member.trim_end_matches(',').split_once(':').unwrap();
            found.insert(format!("{name}.{member}"), *offset);
            *offset += size(kind.trim());
        }
    }
    found
}

/// The rows of the tables: `name | value | ...`.
fn reference() -> BTreeMap<String, u64> {
    let row = |line: &&str| line.contains(" |") && !line.contains(":delim:");
    let rows = REFERENCE.lines().filter(row);
    let mut found = BTreeMap::new();
    for row in rows {
        let mut cells = row.split('|').map(str::trim);
        let (name, text) = (cells.next().unwrap(), cells.next().unwrap());
        let old = found.insert(name.to_string(), value(text).expect(row));
        assert_eq!(old, None, "{name} is there twice");
    }
    found
}

#[test]
fn reference_and_layout_agree() {
    let (layout, reference) = (layout(), reference());
    assert!(layout.len() > 100);
    for (name, value) in &layout {
        let said = reference.get(name);
        assert_eq!(said, Some(value), "{name}: left is the reference");
    }
    for name in reference.keys() {
        assert!(layout.contains_key(name), "{name} is in the reference only");
    }
}
