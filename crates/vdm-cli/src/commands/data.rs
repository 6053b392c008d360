//! `vdm data`.

use crate::shared::output::outln;
use anyhow::{Result, bail};
use serde_json::json;
use std::path::PathBuf;
use vdm::config::preset;
use vdm::data::Source;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The data set to say more about.
    pub name: Option<String>,
}

/// A data set that presets name.
pub struct Set {
    /// Its name, which is that of the preset that trains on it.
    pub name: &'static str,
    about: &'static str,
    /// Where it comes from, and how to put it in place.
    from: &'static str,
    /// What shows that it is there.
    file: &'static str,
    /// Files with their MD5 sums as their publishers state them.
    sums: &'static [(&'static str, &'static str)],
}

/// All of them.
pub const SETS: &[Set] = &[
    Set {
        name: "digits",
        about: "1,797 handwritten digits, 1x8x8, 17 levels",
        from: "built into the program (E. Alpaydin and C. Kaynak, CC BY 4.0)",
        file: "",
        sums: &[],
    },
    Set {
        name: "fashion-mnist",
        about: "70,000 pieces of clothing, 1x28x28",
        from: "Debian and Ubuntu: `apt-get install dataset-fashion-mnist`, which puts it where the preset looks. \
               Elsewhere: the four .gz files of github.com/zalandoresearch/fashion-mnist (MIT), in one folder.",
        file: "t10k-images-idx3-ubyte",
        sums: &[],
    },
    Set {
        name: "mnist",
        about: "70,000 handwritten digits, 1x28x28",
        from: "the four .gz files of yann.lecun.com/exdb/mnist or of a mirror, in one folder, packed or not",
        file: "t10k-images-idx3-ubyte",
        sums: &[
            ("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
            ("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"),
            ("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
            ("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c"),
        ],
    },
    Set {
        name: "cifar10",
        about: "60,000 colour photographs of ten kinds, 3x32x32",
        from: "the binary version, cifar-10-binary.tar.gz, of www.cs.toronto.edu/~kriz/cifar.html, unpacked",
        file: "test_batch.bin",
        sums: &[("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530")],
    },
    Set {
        name: "imagenet32",
        about: "1.3 million colour photographs, 3x32x32",
        from: "the downsampled ImageNet of image-net.org (npz files, after registration), all files in one folder",
        file: "val_data.npz",
        sums: &[],
    },
    Set {
        name: "imagenet64",
        about: "1.3 million colour photographs, 3x64x64",
        from: "the downsampled ImageNet of image-net.org (npz files, after registration), all files in one folder",
        file: "val_data.npz",
        sums: &[],
    },
];

impl Set {
    /// Where its preset looks for it: empty for what is built in.
    fn place(&self) -> PathBuf {
        let source = preset(self.name).map(|config| config.data.source);
        source.and_then(|mut source| source.dir_mut().cloned()).unwrap_or_default()
    }

    /// That place, if the data are there.
    pub fn found(&self) -> Option<PathBuf> {
        self.found_in(self.place())
    }

    /// `place`, if the data are there, under any name that their source takes.
    fn found_in(&self, place: PathBuf) -> Option<PathBuf> {
        let dotted = self.file.replace("-idx", ".idx");
        let names = [self.file, &dotted].map(|name| [name.to_string(), format!("{name}.gz")]);
        let found = self.file.is_empty() || names.as_flattened().iter().any(|name| place.join(name).is_file());
        found.then_some(place)
    }
}

pub fn execute(args: &Args, json: bool) -> Result<()> {
    let known = |set: &&Set| args.name.as_deref().is_none_or(|name| name == set.name);
    let sets: Vec<&Set> = SETS.iter().filter(known).collect();
    if sets.is_empty() {
        let names: Vec<&str> = SETS.iter().map(|set| set.name).collect();
        bail!(
            "no data set of the name {:?} is known; known are {}, and a folder of your own images is trained on with \
             --set data.source=folder --set data.dir=FOLDER",
            args.name.as_deref().unwrap_or_default(),
            names.join(", ")
        );
    }
    if json {
        let object = |set: &&Set| {
            json!({
                "name": set.name, "about": set.about, "from": set.from, "place": set.place(),
                "found": set.found().is_some(), "md5": set.sums,
            })
        };
        outln!("{}", json!({ "data": sets.iter().map(object).collect::<Vec<_>>() }));
        return Ok(());
    }
    for set in sets {
        let found = if set.found().is_some() { "found" } else { "not found" };
        outln!("{:<14} {found:<10} {}", set.name, set.about);
        if args.name.is_some() {
            outln!("from           {}", set.from);
            if !set.file.is_empty() {
                let place = set.place();
                outln!("place          {}; another with --set data.dir=FOLDER", place.display());
            }
            for (file, sum) in set.sums {
                outln!("md5            {sum}  {file}");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only packed files were found, though unpacked ones are read.
    #[test]
    fn unpacked_and_packed_files_are_found() {
        let set = SETS.iter().find(|set| set.name == "fashion-mnist").unwrap();
        for name in ["t10k-images-idx3-ubyte", "t10k-images-idx3-ubyte.gz", "t10k-images.idx3-ubyte"] {
            let dir = tempfile::tempdir().unwrap();
            assert_eq!(set.found_in(dir.path().into()), None);
            std::fs::write(dir.path().join(name), b"").unwrap();
            assert_eq!(set.found_in(dir.path().into()).as_deref(), Some(dir.path()), "{name}");
        }
    }
}
