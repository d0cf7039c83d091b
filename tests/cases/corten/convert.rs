//! `corten images convert` beside `ctr images convert`: the same image comes out, to the byte.

use serde_json::Value;
use tests::Image;

use super::on_both;

#[test]
fn an_image_is_converted_as_ctr_converts_it() {
    on_both(|setup| {
        let (ctr, folder) = (setup.daemon.ctr(), setup.daemon.folder());
        let image = Image::many_layers(2, 300_000);
        let archives = [
            (
                "example.org/oci:1",
                image.write_archive(folder, "example.org/oci:1"),
            ),
            (
                "example.org/docker:1",
                image.write_docker_archive(folder, "example.org/docker:1"),
            ),
        ];
        for (source, archive) in &archives {
            setup.ok(&["images", "import", &archive.display().to_string()]);
            for flags in [
                &["--uncompress"][..],
                &["--oci"],
                &["--uncompress", "--oci"],
            ] {
                let [ours, theirs] = ["example.org/ours:1", "example.org/theirs:1"];
                let line = |target| [&["images", "convert"], flags, &[*source, target]].concat();
                let expected = ctr.ok(&line(theirs));
                assert_eq!(setup.ok(&line(ours)), expected, "{source} {flags:?}");
                let checked = setup.ok(&["images", "check", &format!("name=={ours}")]);
                assert!(checked.contains(" complete (3/3 layers)"), "{checked}");
                let shown = setup.ok(&["images", "inspect", ours]);
                let shown: Value = serde_json::from_str(&shown).expect("it prints JSON");
                let layer = shown["manifest"]["layers"][0]["mediaType"].as_str();
                let layer = layer.expect("a media type");
                if flags.contains(&"--uncompress") {
                    assert!(layer.ends_with("tar"), "{source} {flags:?}: {layer}");
                }
                if flags.contains(&"--oci") {
                    assert!(layer.starts_with("application/vnd.oci."), "{layer}");
                }
                let ran = setup.ok(&["run", "--rm", ours, "converted", "cat", "/data/last"]);
                assert_eq!(ran, "1\n");
                // What only the converted image names is collected with it, and with nothing else.
                setup.ok(&["images", "rm", ours, theirs]);
                setup.ok(&["run", "--rm", source, "old", "cat", "/data/last"]);
            }
        }
        let missing = ["images", "convert", "example.org/none:1", "example.org/x:1"];
        assert!(setup.run(&missing).refused().contains("example.org/none:1"));
        setup.assert_clean();
    });
}
