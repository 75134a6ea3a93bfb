// SPDX-License-Identifier: MIT OR Apache-2.0

//! The programs that README.md shows are the examples, word for word.

use std::fs;
use std::path::Path;

#[test]
fn the_readme_shows_the_examples() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("../../../README.md")).unwrap();
    for (language, name) in [
        ("c", "increment-kernel.c"),
        ("c", "increment.c"),
        ("rust", "increment.rs"),
    ] {
        let example = fs::read_to_string(root.join("examples").join(name)).unwrap();
        let (licence, code) = example.split_once('\n').unwrap();
        assert!(licence.contains("SPDX-License-Identifier"), "{name}");
        let block = format!("```{language}\n{code}```\n");
        assert!(
            readme.contains(&block),
            "README.md does not show {name} as it is"
        );
    }
}
